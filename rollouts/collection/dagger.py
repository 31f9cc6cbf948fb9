"""Expert labels for the states that a trained agent visits: DAgger (Ross, Gordon and Bagnell 2011).

Behaviour cloning drifts into states that are missing in its expert's episodes. Here a trained agent acts and the expert
labels each step. The episode stores the executed actions, which the model reads, and the labels, which it learns. The
expert acts itself for some stretches, so that a stuck agent makes progress.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.loop import Actor
from gato_agent.envs.ownership import owned
from gato_agent.rollouts.experts.expert import Expert

KIND = "dagger"
MEAN_STRETCH = 10  # mean of the 1 to 19 steps of a stretch
STREAM = 0xDA66  # separates these random numbers from others with the same episode seed


class Student(Actor, Protocol):
    """An Actor with a memory of its episode, which also takes steps that another actor chose."""

    def follow(self, observation: Any, action: Any, start: NDArray[np.bool_]) -> None:
        """Add a step with another actor's `action` to the memory; all arguments are batches, as in `act`."""


class Learner(Protocol):
    """Reference to a trained agent, which is pickled; the worker that plays makes the agent.

    Attributes:
        sha256: of the checkpoint.
    """

    @property
    def sha256(self) -> str:
        """Digest of everything that the agent's actions depend on."""

    def knows(self, env_id: str) -> bool:
        """True if the agent was trained on this environment."""

    def check(self, envs: VectorEnv[Any, Any, Any]) -> None:
        """Raise UsageError if the agent cannot act in these environments."""

    def make(self, envs: VectorEnv[Any, Any, Any]) -> Student:
        """Make the agent for these environments; raises GatoError if the checkpoint no longer matches `sha256`."""


class SampledAgent(Protocol):
    """Reference to a trained agent whose own episodes are collected, which is pickled as a `Learner` is."""

    def knows(self, env_id: str) -> bool:
        """True if the agent was trained on this environment."""

    def make_expert(self, envs: VectorEnv[Any, Any, Any]) -> Expert:
        """Make the agent for these environments.

        Raises:
            UsageError: the agent cannot act in them.
            GatoError: the checkpoint has changed.
        """


def provenance(learner: Learner, beta: float) -> dict[str, Any]:
    """Description of the acting agent in the header of its episodes."""
    return {"kind": KIND, "sha256": learner.sha256, "beta": beta}


class Guided:
    """Actor that mixes a student and its expert, which labels each step; a function of the episode's seed.

    In stretches of 1 to 19 steps either the student acts or, with probability `beta`, the expert. One environment only.

    Attributes:
        label: the expert's action in the latest step, batch of one; a copy.
    """

    def __init__(self, student: Student, expert: Expert, about: Mapping[str, Any]) -> None:
        """Combine an agent and its expert; `about` is their `provenance`."""
        self.label: Any = None
        self._student, self._expert, self._beta = student, expert, float(about["beta"])
        self._rng = np.random.default_rng(STREAM)
        self._steps_left = 0  # of the current stretch
        self._expert_acts = False

    def seed(self, seed: int) -> None:
        """Seed the expert and the stretches of the next episode."""
        self._expert.seed(seed)
        self._rng = np.random.default_rng([STREAM, seed])

    def reset(self, num_envs: int) -> None:
        """Prepare for one environment; raises ValueError for more, whose stretches would depend on each other."""
        if num_envs != 1:
            raise ValueError(f"stretches are a function of one episode's seed: 1 environment is needed, not {num_envs}")
        self._expert.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Return the action to execute, batch of one, and store the expert's in `label`."""
        if start.all():
            self._student.reset(1)  # the position of its memory decides how sums are rounded
            self._steps_left = 0
        self.label = owned(self._expert.act(owned(observation), start.copy()))
        if self._steps_left == 0:
            self._expert_acts = bool(self._rng.random() < self._beta)
            self._steps_left = int(self._rng.integers(1, 2 * MEAN_STRETCH))
        self._steps_left -= 1
        if not self._expert_acts:
            return self._student.act(observation, start)
        self._student.follow(observation, owned(self.label), start)
        return owned(self.label)
