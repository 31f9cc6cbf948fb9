"""Cost of the trainings of `scripts/generalist.sh`, and their loss by family: a table of the documents and a plot.

python scripts/training_cost.py generalist
python scripts/tables.py
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from gato_agent.cli import guard
from gato_agent.envs.errors import UsageError
from gato_agent.envs.files import write_files
from gato_agent.evaluation.report.plots import RC_PARAMS
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.episode_store import open_stores

ROOT = Path(__file__).resolve().parents[1]
EPISODES, RUNS = ("data", "met"), ("first", "run", "nano")
MEAN_OF = 100  # steps in one point of the plot
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Config:
    """Table and plot of a finished `scripts/generalist.sh`."""

    folder: tyro.conf.Positional[Path]
    """Its folder."""
    table: Path = ROOT / "benchmarks" / "results" / "generalist-cost.json"
    """JSON file of the table."""
    plot: Path = ROOT / "docs" / "generalist-loss.svg"
    """SVG file of the plot."""


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
    families = sorted({family for _, log in logs.values() for entry in log for family in entry["family_loss"]})
    colors = dict(zip(families, cycle(mpl.colormaps["tab20"].colors)))  # type: ignore[attr-defined]
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(3.4 * len(runs) + 1.6, 3.4), layout="constrained")
        panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
        for axes, (name, (config, log)) in zip(panels, logs.items(), strict=True):
            for family in families:
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
        figure.legend(lines, families, loc="outside right center", frameon=False)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()


def sources(path: Path) -> tuple[str, str]:
    """Commits and machines of a log.tsv, each once and in order.

    Raises:
        UsageError: no such file, a line without these, or a commit with changes that are in no commit.
    """
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        commits, machines = (list(dict.fromkeys(column)) for column in list(zip(*lines, strict=True))[1:3])
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: {why}; it is made by scripts/generalist.sh {path.parent}") from error
    if dirty := [commit for commit in commits if "dirty" in commit]:
        raise UsageError(f"{path}: changes beside {dirty[0]} are in no commit: run the script in another folder")
    return ", ".join(commits), "; ".join(machines)


def main(config: Config) -> None:
    """Write both files."""
    folder = config.folder.resolve()
    commits, machines = sources(folder / "log.tsv")
    episodes = [folder / name for name in EPISODES if (folder / name).exists()]
    runs = [folder / name for name in RUNS if (folder / name / "log.jsonl").exists()]
    if not runs:
        raise UsageError(f"{folder}: no runs; they are made by scripts/generalist.sh {folder}")
    table = {
        "title": "what the weights were made of",
        "command": f"scripts/generalist.sh {folder.name} && python scripts/training_cost.py {folder.name}",
        "commit": commits,
        "machine": machines,
        "columns": ["folder", "contents", "steps", "hours"],
        "rows": [*map(episodes_row, episodes), *map(run_row, runs)],
    }
    write_files({config.table: (json.dumps(table, indent=1) + "\n").encode(), config.plot: plot(runs)})


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "training_cost")
