"""Tables of the documents on a finished `scripts/generalist.sh`: scores, what they cost, and a plot of the loss.

python scripts/generalist_tables.py generalist
python scripts/tables.py
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from gato_agent.cli import guard
from gato_agent.envs.errors import UsageError
from gato_agent.envs.files import write_files
from gato_agent.envs.tasks.task import families, find
from gato_agent.evaluation.aggregate import ALL, GROUPS, by_group
from gato_agent.evaluation.report.comparison import published
from gato_agent.evaluation.report.plots import RC_PARAMS
from gato_agent.evaluation.results import Results
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.episode_store import open_stores

ROOT = Path(__file__).resolve().parents[1]
EPISODES, RUNS = ("data", "met"), ("first", "run", "nano")
MEAN_OF = 100  # steps in one point of the plot
Log = Sequence[Mapping[str, Any]]


SHOWN = (  # tasks of the README
    "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "LunarLander-v3",
    "BipedalWalker-v3", "Ant-v5", "Hopper-v5", "Humanoid-v5", "HalfCheetah-v5", "Walker2d-v5", "Walker2DBulletEnv-v0",
    "FetchReach-v4", "MinAtar/Breakout-v1", "BabyAI-GoToLocal-v0",
)  # fmt: skip
Rows = list[list[str]]


@dataclass(frozen=True)
class Config:
    """Tables and plot of a finished `scripts/generalist.sh`."""

    folder: tyro.conf.Positional[Path]
    """Its folder."""
    tables: Path = ROOT / "benchmarks" / "results"
    """Folder of the tables, as JSON."""
    plot: Path = ROOT / "docs" / "generalist-loss.svg"
    """SVG file of the plot."""


def family_rows(results: Results) -> Rows:
    """A row for each family, and for all tasks."""
    known = {name: f"JAT {shown(group['iqm'], 2)} ({group['environments']})"
             for name, group in published()["JAT"]["groups"].items() if "iqm" in group}  # fmt: skip
    rows = []
    for name, summary in by_group(results).items():
        tasks = [task for task in results.scores() if name == ALL or task.family in GROUPS[name]]
        scores = [task.normalized for task in tasks if task.normalized is not None]
        above = [f"{sum(score > bound for score in scores)}" for bound in (0.5, 0.8, 0.9)]
        figures = [shown(each) for each in (summary.iqm, summary.iqm_of_tasks, summary.mean, min(scores, default=None))]
        rows.append([name, f"{summary.tasks}", *figures, *above, percent(summary.success), known.get(name, "")])
    return rows


def task_rows(results: Results, tasks: Iterable[str]) -> Rows:
    """A row for each task: return, its interval, success, the catalogue's scores, and the score."""
    rows = []
    for task in (results.tasks[name] for name in tasks):
        known = find(task.task)
        references = [known.random.mean, known.expert.mean] if known and known.random and known.expert else [None] * 2
        low, high = task.ci95
        means = [number(task.mean), f"{number(low)} to {number(high)}", *map(number, references)]
        rows.append([task.task, *means, percent(task.success), shown(task.normalized)])
    return rows


def shown(score: float | None, digits: int = 3) -> str:
    """A score without the zero before its point."""
    return "" if score is None else f"{score:.{digits}f}".replace("0.", ".", 1 if abs(score) < 1 else 0)


def number(value: float | None) -> str:
    """A return, with two digits after the point where it is small."""
    return "" if value is None else f"{value:,.2f}" if abs(value) < 10 else f"{value:,.1f}"


def percent(share: float | None) -> str:
    """A share in percent."""
    return "" if share is None else f"{share:.0%}"


def episodes_row(folder: Path) -> list[str]:
    """Cells of a folder of episodes."""
    stores = open_stores(folder)
    steps = [store.stats(index).steps for store in stores for index in store.indices()]
    tasks = "1 task" if len(stores) == 1 else f"{len(stores)} tasks"
    return [folder.name, f"{len(steps):,} episodes of {tasks}", f"{sum(steps):,}", ""]


def read(run: Path) -> tuple[dict[str, Any], Log]:
    """config.json and log.jsonl of a run folder."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return config, [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def tokens_of(config: Mapping[str, Any]) -> int:
    """Tokens of a training step."""
    return int(config["batch_size"]) * 2 * GatoConfig.named(config["size"]).reshaped(config["shape"]).context


def run_row(run: Path) -> list[str]:
    """Cells of a training; its hours are those of its steps, without the time between them."""
    config, log = read(run)
    tokens = tokens_of(config)
    hours = sum(tokens / entry["tokens_per_second"] for entry in log) / 3600
    contents = f"training of {config['size']}, {len(log) * tokens / 1e6:.1f} million tokens"
    return [run.name, contents, f"{len(log):,}", f"{hours:.1f}"]


def plot(runs: Sequence[Path]) -> bytes:
    """SVG of each family's loss by tokens, one panel a run."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    logs = {run.name: read(run) for run in runs}
    names = sorted({family for _, log in logs.values() for entry in log for family in entry["family_loss"]})
    colors = dict(zip(names, cycle(mpl.colormaps["tab20"].colors)))  # type: ignore[attr-defined]
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(3.4 * len(runs) + 1.6, 3.4), layout="constrained")
        panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
        for axes, (name, (config, log)) in zip(panels, logs.items(), strict=True):
            for family in names:
                points = np.array([
                    (entry["step"] * tokens_of(config) / 1e6, entry["family_loss"][family])
                    for entry in log if family in entry["family_loss"]
                ])  # fmt: skip
                parts = np.array_split(points, max(1, len(points) // MEAN_OF)) if len(points) else []
                axes.plot(*np.array([part.mean(axis=0) for part in parts]).reshape(-1, 2).T, color=colors[family])
            axes.set(yscale="log", xlabel="million tokens")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_title(name, fontsize=9, loc="left")
        panels[0].set_ylabel("loss in nats")
        lines = [Line2D([], [], color=color) for color in colors.values()]
        figure.legend(lines, names, loc="outside right center", frameon=False)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()


def sources(path: Path, *phases: str) -> dict[str, str]:
    """Commits and machines of a log.tsv, each once and in order; of some phases or all.

    Raises:
        UsageError: no such file, a line without these, or a commit with changes that are in no commit.
    """
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if not phases or line[3] in phases]
        if phases and not lines:
            raise ValueError(f"no phase {phases[0]!r}")
        commits, machines = (list(dict.fromkeys(column)) for column in list(zip(*lines, strict=True))[1:3])
    except (OSError, ValueError, IndexError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: {why}; it is made by scripts/generalist.sh {path.parent}") from error
    if dirty := [commit for commit in commits if "dirty" in commit]:
        raise UsageError(f"{path}: changes beside {dirty[0]} are in no commit: run the script in another folder")
    return {"commit": ", ".join(commits), "machine": "; ".join(machines)}


def main(config: Config) -> None:
    """Write the tables and the plot."""
    folder = config.folder.resolve()
    log, script = folder / "log.tsv", f"scripts/generalist.sh {folder.name}"
    whole = sources(log)
    episodes = [folder / name for name in EPISODES if (folder / name).exists()]
    runs = [folder / name for name in RUNS if (folder / name / "log.jsonl").exists()]
    if not runs:
        raise UsageError(f"{folder}: no runs; they are made by {script}")
    tables: dict[str, tuple[str, dict[str, str], list[str], Rows]] = {
        "generalist-cost": (
            "what the weights were made of", whole, ["folder", "contents", "steps", "hours"],
            [*map(episodes_row, episodes), *map(run_row, runs)],
        ),
    }  # fmt: skip
    heads = [
        "family", "tasks", "IQM", "IQM of tasks", "mean", "least", "above .5", "above .8", "above .9", "success",
        "published IQM",
    ]  # fmt: skip
    for name, who, phase, path in (
        ("generalist", "the shipped weights", "evaluate run", folder / "results"),
        ("generalist-nano", "a `nano` for all tasks", "evaluate nano", folder / "nano" / "results"),
    ):
        if not path.exists():
            continue
        results, source = Results.load(path), sources(log, phase)
        tables[f"{name}-families"] = (f"{who} by family", source, heads, family_rows(results))
        if name == "generalist":
            tasks = ["environment", "mean return", "95% interval", "random", "expert", "success", "score"]
            some = [task for task in SHOWN if task in results.tasks]
            tables["generalist-tasks"] = (f"{who} in some tasks", source, tasks, task_rows(results, some))
            order = sorted(results.tasks, key=lambda task: (list(families()).index(results.tasks[task].family), task))
            tables["generalist-scores"] = (f"{who} in all tasks", source, tasks, task_rows(results, order))
    files = {
        config.tables / f"{name}.json": {
            "title": title, "command": f"{script} && python scripts/generalist_tables.py {folder.name}", **source,
            "columns": columns, "rows": rows,
        }
        for name, (title, source, columns, rows) in tables.items()
    }  # fmt: skip
    write_files({path: (json.dumps(table, indent=1) + "\n").encode() for path, table in files.items()})
    write_files({config.plot: plot(runs)})


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "generalist_tables")
