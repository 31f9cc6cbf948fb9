"""The temperature at which each family's actions are chosen best, of some that are tried, written into a checkpoint.

python scripts/temperatures.py generalist/run --suite babyai

A policy that is not quite right can go round in circles for ever where it always does what is likeliest.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import tyro
from rich.console import Console

from gato_agent.checkpoint import locate, read, to_bytes
from gato_agent.envs.files import write_files
from gato_agent.envs.task import find
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
    """Of each task and temperature, on seeds from 900,000 on, which no evaluation has."""
    workers: int | None = None
    """As for `gato-agent evaluate`."""


def main(config: Config) -> None:
    """Print a table as Markdown and rewrite the checkpoint."""
    scores: dict[str, list[float]] = {suite: [] for suite in config.suite}
    for temperature in config.tried:
        results = evaluate(
            EvaluateConfig(suite=config.suite, checkpoint=str(config.checkpoint), temperature=temperature, seed=900_000,
                           episodes=config.episodes, workers=config.workers)
        )  # fmt: skip
        for suite, found in scores.items():
            each = [task.normalized for task in results.tasks.values() if task.family == suite]
            found.append(fmean(score for score in each if score is not None))
    best = {suite: config.tried[found.index(max(found))] for suite, found in scores.items()}
    path = locate(config.checkpoint)
    tensors, about = read(path)
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


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
