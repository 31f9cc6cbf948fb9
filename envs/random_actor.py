"""The actor that every score is measured against: uniformly random actions."""

from typing import Any

import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


class RandomActor:
    """Samples of the action space, normal or exponential where it is unbounded; a function of seed and `num_envs`."""

    def __init__(self, action_space: Space[Any], seed: int) -> None:
        """Sample from `action_space`, which is one environment's."""
        self._space = action_space
        self._seed = seed

    def reset(self, num_envs: int) -> None:
        """Start the sequence of actions anew for `environments` environments."""
        self._actions = batch_space(self._space, num_envs)
        self._actions.seed(self._seed)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Return one random action per environment, whatever is observed."""
        return self._actions.sample()
