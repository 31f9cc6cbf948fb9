"""Short returns of a model in training, played by the agent that `evaluate` plays with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.evaluation.results import TaskScore, score
from gato_agent.evaluation.worker import named, play_episodes
from gato_agent.inference.make_agent import make_agent_and_envs

FIRST = 900_000  # seeds between those that are collected and those that the result is judged by


@dataclass(frozen=True)
class Returns:
    """What came of a few episodes of each task, and which tasks could not be played."""

    tasks: dict[str, TaskScore] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def selection_metric(self) -> float | None:
        """What the best model is chosen by: the mean over tasks of the normalised score, or of the return without."""
        each = [s.mean if s.normalized is None else s.normalized for _, s in sorted(self.tasks.items())]
        return float(np.mean(each)) if each else None


def validate_in_env(
    checkpoint: Checkpoint, tasks: Sequence[str], episodes: int, device: str, say: Callable[[str], None],
    env_kwargs: Mapping[str, Any] | None = None,
) -> Returns:  # fmt: skip
    """Play a few greedy episodes of each task, always of the same seeds.

    Args:
        checkpoint: the model as it is now.
        tasks: that it knows.
        episodes: of each.
        device: where the model is.
        say: takes a line on how far it is.
        env_kwargs: arguments that the user named, for tasks that were trained with the same and may not name them.
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
                for episode in play_episodes(agent, envs, range(FIRST, FIRST + episodes), task):
                    played.append(episode)
                    say(f"playing {task}: {len(played)} of {episodes}")
            returns.tasks[task] = score(task, sorted(played), comparable=not checkpoint.tasks[task].env_kwargs)
        except Exception as error:  # noqa: BLE001  # training goes on, whatever an environment does
            returns.failed[task] = named(task, error)
    return returns
