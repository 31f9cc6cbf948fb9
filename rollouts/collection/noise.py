"""Exploration noise in the style of DART: the expert is pushed off its path and shows how it comes back.

Behaviour cloning sees only states that its expert visits. So some actions are replaced by random ones, held for a few
steps, and the episode keeps both: what was executed (what the model reads) and what the expert wanted (what it learns).
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from gato_agent.envs.ownership import owned
from gato_agent.rollouts.experts.load import Expert

LEVELS = (0.0, 0.05, 0.15, 0.3)  # roughly the share of noisy steps; one is drawn for each episode
MEAN_HOLD = 3  # a random action is held for 1 to 5 steps, so this many on average
STREAM = 0x5EED  # keeps these random numbers apart from others that start from the same episode seed


class Noisy:
    """An expert whose actions are at times replaced, as a pure function of the episode's seed. One environment only.

    Attributes:
        level: the current episode's noise level.
        label: the expert's own action of the latest step, batch of one; a copy.
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
        """Draw the noise of the episode with this seed."""
        self._expert.seed(seed)
        self._rng = np.random.default_rng([STREAM, seed])
        self._random.seed(int(self._rng.integers(2**31)))
        self.level = LEVELS[self._rng.integers(len(LEVELS))]
        self._hold = 0

    def reset(self, num_envs: int) -> None:
        """Prepare for one environment; raises ValueError for more, whose random numbers would depend on each other."""
        if num_envs != 1:
            raise ValueError(f"noise is a function of one episode's seed, so of one lane, not {num_envs}")
        self._expert.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Return the action to execute, batch of one, and keep the expert's own in `label`."""
        self.label = owned(self._expert.act(observation, start))
        if self._hold == 0 and self._rng.random() < self.level / MEAN_HOLD:
            self._held, self._hold = self._random.sample(), int(self._rng.integers(1, 2 * MEAN_HOLD))
        if self._hold == 0:
            return owned(self.label)
        self._hold -= 1
        return owned(self._held)
