"""Shares of the tokens for `gato-agent train --mixture`: within each family by what its tasks lack of the expert.

python scripts/by_need.py results '{"babyai": 0.47, "mujoco": 0.13}'
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from gato_agent.results import Results

LEAST = 0.3  # what a task that is played as well as by the expert weighs, beside 1.3 of one that is played at random


def by_need(results: Results, shares: dict[str, float]) -> dict[str, float]:
    """Weight of each evaluated task whose family has a share; those of a family sum to it."""
    need: dict[str, dict[str, float]] = defaultdict(dict)
    for task in results.tasks.values():
        score = 0.0 if task.normalized is None else min(1.0, max(0.0, task.normalized))
        need[task.family][task.task] = LEAST + 1 - score
    return {
        task: round(shares[family] * each / sum(tasks.values()), 5)
        for family, tasks in need.items()
        if family in shares
        for task, each in tasks.items()
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(by_need(Results.load(Path(sys.argv[1])), json.loads(sys.argv[2]))))
