"""Compare the catalogue's expert scores with published ones of the same agents.

    python benchmarks/against_manifest.py manifest.csv

A difference of more than two standard errors (of both samples together) is marked with a star; about one in twenty is
marked by chance.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from gato_agent.envs.tasks.task import find


@dataclass(frozen=True)
class Config:
    """Compare expert scores."""

    manifest: Annotated[Path, tyro.conf.Positional]
    """CSV with columns env, mean, std, episodes."""


def main(config: Config) -> None:
    """Print a table with a row for each environment."""
    shown = Table("environment", box=box.SIMPLE, padding=0)
    for name in ("measured", "std", "n", "published", "std", "n", "standard errors"):
        shown.add_column(name, justify="right")
    with config.manifest.open(newline="") as file:
        for row in csv.DictReader(file):
            task = find(row["env"])
            if task is None or task.expert is None:
                shown.add_row(row["env"], *["-"] * 7)
                continue
            ours, mean, std, n = task.expert, float(row["mean"]), float(row["std"]), float(row["episodes"])
            error = math.sqrt(ours.std**2 / ours.episodes + std**2 / n)
            difference = (ours.mean - mean) / error if error else 0.0
            cells = f"{ours.mean:.2f}", f"{ours.std:.2f}", str(ours.episodes), f"{mean:.2f}", f"{std:.2f}", f"{n:.0f}"
            shown.add_row(row["env"], *cells, f"{difference:+.1f}{' *' if abs(difference) > 2 else ''}")
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))
