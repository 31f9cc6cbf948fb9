"""The temperature at which each task's actions are chosen best, of some that are tried, written into a checkpoint.

python scripts/temperatures.py generalist/run --suite babyai

A policy that is not quite right can go round in circles for ever where it always does what is likeliest. What was
played is kept beside the checkpoint, so that the same command goes on. Training on makes temperatures 0 again.

Few episodes say little of one task, and many tasks much of their family: a task's scores count half, those of its
family the other half.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import tyro
from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint, locate, read, to_bytes
from gato_agent.cli import guard
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.envs.errors import GatoError, UsageError, at_least
from gato_agent.envs.files import below, lock_folder, write_files
from gato_agent.envs.tasks.task import families


@dataclass(frozen=True)
class Config:
    """What is tried."""

    checkpoint: tyro.conf.Positional[Path]
    """Run folder or file; it is rewritten."""
    suite: tuple[str, ...]
    """Families whose tasks get temperatures. Others keep what they have."""
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
        folder = below(path.parent, "temperatures") / Checkpoint.load(path).sha256()[:12]  # of these weights
        scores = {suite: [played(config, path, folder, suite, each) for each in config.tried] for suite in config.suite}
        best = {task: each for found in scores.values() for task, each in chosen(found, config.tried).items()}
        for task in about["tasks"]:
            if task["id"] in best:
                task["temperature"] = best[task["id"]]
        write_files({path: to_bytes(tensors, {name: value for name, value in about.items() if name != "format"})})
    console = Console(width=200, highlight=False)
    console.print(f"| mean score at temperature | {' | '.join(map(str, config.tried))} |")
    console.print("|---|" + "---:|" * len(config.tried))
    for suite, found in scores.items():
        console.print(f"| {suite} | {' | '.join(f'{fmean(each.values()):.3f}' for each in found)} |")
    console.print(json.dumps(best))


def chosen(scores: Sequence[Mapping[str, float]], tried: Sequence[float]) -> dict[str, float]:
    """The best temperature for each task of a family.

    Args:
        scores: by temperature, the mean score of each task.
        tried: the temperatures.
    """
    family = [fmean(each.values()) for each in scores]
    best = {}
    for task in scores[0]:
        selection_metric = [each[task] + mean for each, mean in zip(scores, family, strict=True)]
        best[task] = tried[selection_metric.index(max(selection_metric))]
    return best


def played(config: Config, path: Path, folder: Path, suite: str, temperature: float) -> dict[str, float]:
    """Mean score of each task of a family; raises GatoError where none of them could be played."""
    results = evaluate(
        EvaluateConfig(
            suite=(suite,), checkpoint=str(path), temperature=temperature, seed=config.seed, episodes=config.episodes,
            workers=config.workers, out=folder / f"{suite}-{temperature:g}-{config.episodes}-{config.seed}",
        )
    )  # fmt: skip
    scores = {task.task: task.normalized for task in results.tasks.values() if task.normalized is not None}
    if not scores or results.failed:
        raise GatoError(f"--suite {suite}: not all of it was played: {results.failed or results.not_evaluated}")
    return scores


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "temperatures")
