"""Environments in which the numbers of an action must agree, so that independent choices fail.

Observations are random and the expert draws its action in each step, so each number alone is uniform.
"""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Columns, columns, stack
from gato_agent.rollouts.storage.episode import Episode

OBSERVATION = Box(-1, 1, (2,))
SPREAD = np.array([-0.7, 0.1, 0.8])  # the number that goes with each choice
LENGTH = 50  # steps of an episode


class Kind(NamedTuple):
    """A variant of the task.

    Attributes:
        space: action space.
        draw: function that draws the expert's action from a generator.
        agrees: true for an action whose numbers agree.
    """

    space: Space[Any]
    draw: Any
    agrees: Any


KINDS = {
    "numbers": Kind(
        MultiDiscrete([4, 4]), lambda rng: np.full(2, rng.integers(4)), lambda action: bool(action[0] == action[1])
    ),
    "bits": Kind(
        MultiBinary(4), lambda rng: np.full(4, rng.integers(2), np.int8), lambda action: len(set(action.tolist())) == 1
    ),
    "choice and number": Kind(
        Tuple((Discrete(3), Box(-1, 1, (1,)))),
        lambda rng: (k := int(rng.integers(3)), np.float32([SPREAD[k] + rng.normal(0, 0.02)])),
        lambda action: bool(abs(SPREAD[action[0]] - action[1][0]) < 0.2),
    ),
}


class Accord(gym.Env[NDArray[np.float32], Any]):
    """Environment with a reward of 1 for each action whose numbers agree."""

    def __init__(self, kind: str = "numbers") -> None:
        self.kind, self.t = KINDS[kind], 0
        self.observation_space, self.action_space = OBSERVATION, self.kind.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take one step; the reward is 1 if the numbers of the action agree."""
        self.t += 1
        return self._observe(), float(self.kind.agrees(action)), False, self.t >= LENGTH, {}

    def _observe(self) -> NDArray[np.float32]:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


def episodes(kind: str, count: int, seed: int = 0) -> list[Episode]:
    """Episodes of the expert, whose actions always agree."""
    rng, space = np.random.default_rng(seed), KINDS[kind].space
    result = []
    for number in range(count):
        acted: Columns = stack(space, [KINDS[kind].draw(rng) for _ in range(LENGTH)])
        result.append(
            Episode(
                observations=columns(OBSERVATION, rng.uniform(-1, 1, (LENGTH + 1, 2)).astype(np.float32)),
                actions=acted, labels=None, rewards=np.ones(LENGTH), terminated=False, truncated=True, success=None,
                seed=number, provenance={},
            )
        )  # fmt: skip
    return result
