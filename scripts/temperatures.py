"""Choose the best sampling temperature of each task from a few candidates and write them into a checkpoint.

python scripts/temperatures.py generalist/run --suite babyai

A greedy policy can repeat a cycle of states without end. Evaluations are kept beside the checkpoint, so that the same
command resumes. Further training sets temperatures to 0.

A task's mean score is noisy with few episodes: the choice is by the mean of the task's score and its family's.
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
    """Choose temperatures."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder, which is rewritten."""
    suite: tuple[str, ...]
    """Suites whose tasks get a temperature; others keep theirs."""
    tried: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 1.0)
    """Candidate temperatures, at least 0."""
    episodes: int = 10
    """Episodes for each task and temperature, at least 1."""
    seed: int = 800_000
    """Random seed of the first episode. Training validates from 900,000 on, evaluation from 1,000,000 on."""
    workers: int | None = None
    """Worker processes, as for `gato-agent evaluate`."""


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
        best = {
            task: each
            for by_temperature in scores.values()
            for task, each in chosen(by_temperature, config.tried).items()
        }
        for task in about["tasks"]:
            if task["id"] in best:
                task["temperature"] = best[task["id"]]
        write_files({path: to_bytes(tensors, {name: value for name, value in about.items() if name != "format"})})
    console = Console(width=200, highlight=False)
    console.print(f"| mean score at temperature | {' | '.join(map(str, config.tried))} |")
    console.print("|---|" + "---:|" * len(config.tried))
    for suite, by_temperature in scores.items():
        console.print(f"| {suite} | {' | '.join(f'{fmean(each.values()):.3f}' for each in by_temperature)} |")
    console.print(json.dumps(best))


def chosen(scores: Sequence[Mapping[str, float]], tried: Sequence[float]) -> dict[str, float]:
    """Best temperature of each task of a family.

    Args:
        scores: by temperature, the mean score by task.
        tried: temperatures, in the order of `scores`.
    """
    family = [fmean(each.values()) for each in scores]
    best = {}
    for task in scores[0]:
        combined = [each[task] + mean for each, mean in zip(scores, family, strict=True)]
        best[task] = tried[combined.index(max(combined))]
    return best


def played(config: Config, path: Path, folder: Path, suite: str, temperature: float) -> dict[str, float]:
    """Mean scores by task of a suite; raises GatoError if one failed or none was evaluated."""
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
