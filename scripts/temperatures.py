"""The temperature at which each family's actions are chosen best, of some that are tried, written into a checkpoint.

python scripts/temperatures.py generalist/run --suite babyai

A policy that is not quite right can go round in circles for ever where it always does what is likeliest. What was
played is kept beside the checkpoint, so that the same command goes on. Training on makes temperatures 0 again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import tyro
from rich.console import Console

from gato_agent.checkpoint import Checkpoint, locate, read, to_bytes
from gato_agent.cli import guard
from gato_agent.envs.errors import GatoError, UsageError, at_least
from gato_agent.envs.files import lock_folder, write_files
from gato_agent.envs.task import families, find
from gato_agent.evaluate import EvaluateConfig, evaluate


@dataclass(frozen=True)
class Config:
    """What is tried."""

    checkpoint: tyro.conf.Positional[Path]
    """Run folder or file; it is rewritten."""
    suite: tuple[str, ...]
    """Families, each of which gets a temperature of its own. Others keep what they have."""
    tried: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0)
    """Temperatures."""
    episodes: int = 10
    """Of each task and temperature."""
    seed: int = 800_000
    """Of the first episode. Seeds from 900,000 on choose the best model in training, from 1,000,000 on they judge."""
    workers: int | None = None
    """As for `gato-agent evaluate`."""


def main(config: Config) -> None:
    """Print a table as Markdown and rewrite the checkpoint."""
    at_least(1, suite=len(config.suite), tried=len(config.tried), episodes=config.episodes)
    for suite in config.suite:
        if suite not in families():
            raise UsageError(f"--suite {suite}: there are {', '.join(families())}")
    path = locate(config.checkpoint)
    with lock_folder(path.parent, "train"):
        tensors, about = read(path)
        folder = path.parent / "temperatures" / Checkpoint.load(path).sha256()[:12]  # of these weights
        scores = {suite: [played(config, path, folder, suite, each) for each in config.tried] for suite in config.suite}
        best = {suite: config.tried[found.index(max(found))] for suite, found in scores.items()}
        for task in about["tasks"]:
            known = find(task["id"])
            if known and known.suite in best:
                task["temperature"] = best[known.suite]
        write_files({path: to_bytes(tensors, {name: value for name, value in about.items() if name != "format"})})
    console = Console(width=200, highlight=False)
    console.print(f"| mean score at temperature | {' | '.join(map(str, config.tried))} |")
    console.print("|---|" + "---:|" * len(config.tried))
    for suite, found in scores.items():
        console.print(f"| {suite} | {' | '.join(f'{score:.3f}' for score in found)} |")
    console.print(json.dumps(best))


def played(config: Config, path: Path, folder: Path, suite: str, temperature: float) -> float:
    """Mean score of a family at a temperature; raises GatoError where none of its tasks could be played."""
    results = evaluate(
        EvaluateConfig(
            suite=(suite,), checkpoint=str(path), temperature=temperature, seed=config.seed, episodes=config.episodes,
            workers=config.workers, out=folder / f"{suite}-{temperature:g}-{config.episodes}-{config.seed}",
        )
    )  # fmt: skip
    scores = [task.normalized for task in results.tasks.values() if task.normalized is not None]
    if not scores:
        raise GatoError(f"--suite {suite}: no task of it has a score: {results.not_evaluated}")
    return fmean(scores)


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "temperatures")
