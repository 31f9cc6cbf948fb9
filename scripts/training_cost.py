"""Cost of the trainings of `scripts/generalist.sh`, and their loss by family: a table of the documents and a plot.

python scripts/training_cost.py generalist
python scripts/tables.py
"""

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
EPISODES, RUNS = ("data", "more", "met"), ("first", "run", "nano")
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
    return [folder.name, f"{len(steps):,} episodes of {len(stores)} tasks", f"{sum(steps):,}", ""]


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
    from cycler import cycler
    from matplotlib.figure import Figure

    colors = cycler(color=mpl.colormaps["tab20"].colors)  # type: ignore[attr-defined]
    with mpl.rc_context({**RC_PARAMS, "axes.prop_cycle": colors}):
        figure = Figure(figsize=(3.4 * len(runs) + 1.6, 3.4), layout="constrained")
        panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
        for axes, run in zip(panels, runs, strict=True):
            config, log = read(run)
            by_family: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for entry in log:
                for family, loss in entry["family_loss"].items():
                    by_family[family].append((entry["step"] * tokens_of(config) / 1e6, loss))
            for family in sorted(by_family):
                points = np.array(by_family[family])
                parts = np.array_split(points, max(1, len(points) // MEAN_OF))
                axes.plot(*zip(*(part.mean(axis=0) for part in parts), strict=True), linewidth=1, label=family)
            axes.set(yscale="log", xlabel="million tokens")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_title(run.name, fontsize=9, loc="left")
        panels[0].set_ylabel("loss in nats")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()


def main(config: Config) -> None:
    """Write both files."""
    episodes = [config.folder / name for name in EPISODES if (config.folder / name).exists()]
    runs = [config.folder / name for name in RUNS if (config.folder / name / "log.jsonl").exists()]
    log = config.folder / "log.tsv"
    if not runs or not log.exists():
        raise UsageError(
            f"{config.folder}: no log.tsv or no runs; make them with scripts/generalist.sh {config.folder}"
        )
    phases = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()]
    table = {
        "title": "what the weights were made of",
        "command": f"scripts/generalist.sh && python scripts/training_cost.py {config.folder.name}",
        "commit": phases[-1][1],
        "machine": phases[-1][2],
        "columns": ["folder", "contents", "steps", "hours"],
        "rows": [*(episodes_row(folder) for folder in episodes), *(run_row(run) for run in runs)],
    }
    write_files({
        config.table: (json.dumps(table, indent=1) + "\n").encode(),
        config.plot: plot(runs),
    })  # fmt: skip


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "training_cost")
