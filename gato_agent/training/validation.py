"""Validation in environments: returns of a model in training over a few greedy episodes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.evaluation.task_score import TaskScore, score
from gato_agent.evaluation.worker import describe, play_episodes
from gato_agent.inference.make_agent import make_agent_and_envs

FIRST_SEED = 900_000  # collection counts seeds from 0, evaluation from 1,000,000


@dataclass(frozen=True)
class Returns:
    """Scores by task, and error messages of the tasks that failed."""

    tasks: dict[str, TaskScore] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def selection_metric(self) -> float | None:
        """Mean over tasks of the normalised score, or of the return where a task has none; None without tasks."""
        each = [s.mean if s.normalized is None else s.normalized for _, s in sorted(self.tasks.items())]
        return float(np.mean(each)) if each else None


def validate_in_env(
    checkpoint: Checkpoint, tasks: Sequence[str], episodes: int, device: str, report_progress: Callable[[str], None],
    env_kwargs: Mapping[str, Any] | None = None,
) -> Returns:  # fmt: skip
    """Play a few greedy episodes of each task, from the same seeds at each call.

    Args:
        checkpoint: the model and its tasks.
        tasks: ids among the checkpoint's.
        episodes: number for each task.
        device: of the model.
        report_progress: called with one line after each episode.
        env_kwargs: arguments from the user, for tasks trained with equal ones that no file may name.
    """
    returns = Returns()
    for task in tasks:
        own = env_kwargs if env_kwargs == checkpoint.tasks[task].env_kwargs else None
        try:
            with make_agent_and_envs(
                checkpoint, task, min(episodes, 16), env_kwargs=own, device=device, temperature=0.0,
                option="--eval-env-kwargs",
            ) as (agent, envs):  # fmt: skip
                played = []
                for episode in play_episodes(agent, envs, range(FIRST_SEED, FIRST_SEED + episodes), task):
                    played.append(episode)
                    report_progress(f"playing {task}: {len(played)} of {episodes}")
            returns.tasks[task] = score(task, sorted(played), comparable=not checkpoint.tasks[task].env_kwargs)
        except Exception as error:  # noqa: BLE001  # a faulty environment does not stop training
            returns.failed[task] = describe(task, error)
    return returns
