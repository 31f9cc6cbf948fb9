"""States that a learner visits, labelled by the expert: DAgger (Ross, Gordon and Bagnell 2011).

Behaviour cloning drifts into states that its expert never showed a way out of. Here a trained agent acts, the expert
says at every step what it would do there, and the episode keeps both: what was executed (what the model reads) and
what the expert wanted (what it learns). Now and then the expert takes over for a stretch, so that an agent that is
stuck comes on.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.loop import Actor
from gato_agent.envs.ownership import owned
from gato_agent.rollouts.experts.load import Expert

KIND = "dagger"
MEAN_STRETCH = 10  # agent and expert take turns of 1 to 19 steps, so this many on average
STREAM = 0xDA66  # keeps these random numbers apart from others that start from the same episode seed


class Student(Actor, Protocol):
    """An Actor with a memory, which can be told what was executed instead of its own action."""

    def follow(self, observation: Any, action: Any, start: NDArray[np.bool_]) -> None:
        """Remember a step in which `action` was executed; all are batches, as in `act`."""


class Learner(Protocol):
    """Names a trained agent, as plain data that reaches a worker by pickling; the agent is made where it plays.

    Attributes:
        sha256: of the checkpoint.
    """

    @property
    def sha256(self) -> str:
        """Digest of all that its actions depend on."""

    def knows(self, env_id: str) -> bool:
        """Whether it was trained on the environment of this id."""

    def check(self, envs: VectorEnv[Any, Any, Any]) -> None:
        """Raise UsageError if it cannot play in these environments."""

    def make(self, envs: VectorEnv[Any, Any, Any]) -> Student:
        """An agent for these environments; raises GatoError if the checkpoint is no longer the one of `sha256`."""


def provenance(learner: Learner, beta: float) -> dict[str, Any]:
    """What episodes say of who acted in them."""
    return {"kind": KIND, "sha256": learner.sha256, "beta": beta}


class Guided:
    """A student that is watched by an expert, as a pure function of the episode's seed. One environment only.

    In turns of 1 to 19 steps either the student acts or, with probability `beta`, the expert.

    Attributes:
        label: the expert's own action of the latest step, batch of one; a copy.
    """

    def __init__(self, student: Student, expert: Expert, about: Mapping[str, Any]) -> None:
        """Begin with an agent, its expert, and what `provenance` says of them."""
        self.label: Any = None
        self._student, self._expert, self._beta = student, expert, float(about["beta"])
        self._rng = np.random.default_rng(STREAM)
        self._left = 0  # steps of the current turn
        self._taught = False

    @property
    def lost(self) -> bool:
        """Whether the expert knew no way on in the latest step, so that its label is worth nothing."""
        return bool(getattr(self._expert, "lost", False))

    def seed(self, seed: int) -> None:
        """Draw the turns of the episode with this seed."""
        self._expert.seed(seed)
        self._rng = np.random.default_rng([STREAM, seed])

    def reset(self, num_envs: int) -> None:
        """Prepare for one environment; raises ValueError for more, whose turns would depend on each other."""
        if num_envs != 1:
            raise ValueError(f"turns are a function of one episode's seed, so of one lane, not {num_envs}")
        self._expert.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Return the action to execute, batch of one, and keep the expert's own in `label`."""
        if start.all():
            self._student.reset(1)  # not only this environment: where its memory lies decides how sums are rounded
            self._left = 0
        self.label = owned(self._expert.act(owned(observation), start.copy()))
        if self._left == 0:
            self._taught = bool(self._rng.random() < self._beta)
            self._left = int(self._rng.integers(1, 2 * MEAN_STRETCH))
        self._left -= 1
        if not self._taught:
            return self._student.act(observation, start)
        self._student.follow(observation, owned(self.label), start)
        return owned(self.label)
