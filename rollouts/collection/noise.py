"""Noise injection as in DART: random actions lead the expert into states from which it shows how to recover.

Behaviour cloning sees only states that its expert visits. So some actions are replaced by random ones, repeated for a
few steps. The episode stores the executed actions, which the model reads, and the expert's, which it learns.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from gato_agent.envs.ownership import owned
from gato_agent.rollouts.experts.expert import Expert

LEVELS = (0.0, 0.05, 0.15, 0.3)  # approximate share of noisy steps; each episode draws one
MEAN_HOLD = 3  # mean of the 1 to 5 steps for which a random action is repeated
STREAM = 0x5EED  # separates these random numbers from others with the same episode seed


class Noisy:
    """Actor that replaces some actions of an expert by random ones; a function of the episode's seed.

    One environment only.

    Attributes:
        level: noise level of the current episode, one of LEVELS.
        label: the expert's action in the latest step, batch of one; a copy.
    """

    def __init__(self, expert: Expert, action_space: gym.Space[Any]) -> None:
        self.provenance = expert.provenance
        self.level = 0.0
        self.label: Any = None
        self._expert = expert
        self._random = batch_space(action_space, 1)
        self._rng = np.random.default_rng(STREAM)
        self._held: Any = None
        self._hold = 0

    def seed(self, seed: int) -> None:
        """Seed the expert and the noise of the next episode."""
        self._expert.seed(seed)
        self._rng = np.random.default_rng([STREAM, seed])
        self._random.seed(int(self._rng.integers(2**31)))
        self.level = LEVELS[self._rng.integers(len(LEVELS))]
        self._hold = 0

    def reset(self, num_envs: int) -> None:
        """Prepare for one environment; raises ValueError for more, whose random numbers would depend on each other."""
        if num_envs != 1:
            raise ValueError(f"noise is a function of one episode's seed: 1 environment is needed, not {num_envs}")
        self._expert.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Return the action to execute, batch of one, and store the expert's in `label`."""
        self.label = owned(self._expert.act(observation, start))
        if self._hold == 0 and self._rng.random() < self.level / MEAN_HOLD:
            self._held, self._hold = self._random.sample(), int(self._rng.integers(1, 2 * MEAN_HOLD))
        if self._hold == 0:
            return owned(self.label)
        self._hold -= 1
        return owned(self._held)
