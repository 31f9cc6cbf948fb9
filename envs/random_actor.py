"""The baseline actor: uniformly random actions."""

from typing import Any

import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


class RandomActor:
    """Actor that samples the action space; its actions are a function of `seed` and `num_envs`.

    As Gymnasium does, it samples unbounded elements from a normal or exponential distribution.
    """

    def __init__(self, action_space: Space[Any], seed: int) -> None:
        """Sample from the action space of a single environment."""
        self._space = action_space
        self._seed = seed

    def reset(self, num_envs: int) -> None:
        """Restart the sequence of actions for `num_envs` environments."""
        self._actions = batch_space(self._space, num_envs)
        self._actions.seed(self._seed)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Return one random action per environment."""
        return self._actions.sample()
