"""The actor that every score is measured against: uniformly random actions."""

from typing import Any

import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray


class RandomActor:
    """Samples the action space, normally or exponentially where it is unbounded; repeats for a seed and lane count."""

    def __init__(self, action_space: Space[Any], seed: int) -> None:
        """Sample from `action_space`, which is one lane's."""
        self._space = action_space
        self._seed = seed

    def reset(self, lanes: int) -> None:
        """Start the sequence of actions anew for `lanes` environments."""
        self._actions = batch_space(self._space, lanes)
        self._actions.seed(self._seed)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Return one random action per lane, whatever is observed."""
        return self._actions.sample()
