"""Mixture weights for `gato-agent train --mixture`: within a family by the tasks' gap to the expert.

python scripts/by_need.py results '{"babyai": 0.47, "mujoco": 0.13}'
"""

import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import tyro

from gato_agent.cli import guard
from gato_agent.envs.errors import UsageError
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.task_score import family_of

MIN_WEIGHT = 0.3  # of a task at the expert's score; one at the random score has 1.3


@dataclass(frozen=True)
class Config:
    """Weight tasks by their scores."""

    results: tyro.conf.Positional[Path]
    """Results: folder that `gato-agent evaluate --out` wrote."""
    shares: tyro.conf.Positional[str]
    """Shares of the tokens by family, as JSON; every evaluated family needs one above 0."""


def by_need(results: Results, shares: dict[str, float]) -> dict[str, float]:
    """Weights by task; those of a family sum to its share. A failed task counts as one at the random score.

    Raises:
        UsageError: a family without a share, or a share without a family.
    """
    need: dict[str, dict[str, float]] = defaultdict(dict)
    for task in (*results.tasks, *results.failed):
        score = results.tasks[task].normalized if task in results.tasks else None
        need[family_of(task)][task] = MIN_WEIGHT + 1 - min(1.0, max(0.0, score or 0.0))
    if other := need.keys() ^ shares.keys():
        raise UsageError(f"families with a share and families evaluated differ: {', '.join(sorted(other))}")
    return {
        task: float(f"{shares[family] * each / sum(tasks.values()):.4g}")
        for family, tasks in need.items()
        for task, each in tasks.items()
    }


def main(config: Config) -> None:
    """Print the weights as words `TASK=WEIGHT`."""
    try:
        shares = {str(family): float(share) for family, share in json.loads(config.shares).items()}
        wrong = [family for family, share in shares.items() if not 0 < share < math.inf]
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f'shares {config.shares!r}: write {{"babyai": 0.5, "mujoco": 0.5}}') from error
    if wrong:
        raise UsageError(f"shares: {', '.join(wrong)} must be above 0")
    weights = by_need(Results.load(config.results), shares)
    sys.stdout.write(" ".join(f"{task}={weight}" for task, weight in weights.items()))


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "by_need")
