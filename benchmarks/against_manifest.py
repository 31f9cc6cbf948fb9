"""Set the catalogue's expert scores beside those that others measured for the same agents.

    python benchmarks/against_manifest.py manifest.csv

The file has columns env, mean, std and episodes. A difference of more than two standard errors (of both samples
together) is marked; of twenty true ones, one is marked by chance.
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
    """Print one row per agent."""
    shown = Table("environment", box=box.SIMPLE, padding=0)
    for name in ("here", "std", "n", "there", "std", "n", "standard errors"):
        shown.add_column(name, justify="right")
    with config.manifest.open(newline="") as file:
        for row in csv.DictReader(file):
            task = find(row["env"])
            if task is None or task.expert is None:
                shown.add_row(row["env"], *["-"] * 7)
                continue
            here, mean, std, n = task.expert, float(row["mean"]), float(row["std"]), float(row["episodes"])
            error = math.sqrt(here.std**2 / here.episodes + std**2 / n)
            apart = (here.mean - mean) / error if error else 0.0
            figures = f"{here.mean:.2f}", f"{here.std:.2f}", str(here.episodes), f"{mean:.2f}", f"{std:.2f}", f"{n:.0f}"
            shown.add_row(row["env"], *figures, f"{apart:+.1f}{' *' if abs(apart) > 2 else ''}")
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))
