"""MultiBinary: an array of bits."""

import math
from typing import Any

import numpy as np
from gymnasium.spaces import MultiBinary
from numpy.typing import NDArray

from gato_agent.envs.spaces.json_arrays import checked_shape
from gato_agent.envs.spaces.leaf_kind import Bounds, LeafKind


class MultiBinaryKind(LeafKind[MultiBinary]):
    """An array of zeros and ones."""

    space = MultiBinary

    def to_json(self, space: MultiBinary) -> dict[str, Any]:
        """Shape as it was given."""
        return {"n": space.n if isinstance(space.n, int) else list(space.n)}

    def from_json(self, json: dict[str, Any]) -> MultiBinary:
        """Inverse of `to_json`."""
        shape = self.json_shape(json)
        return MultiBinary(shape if isinstance(json["n"], list) else shape[0])

    def json_shape(self, json: dict[str, Any]) -> tuple[int, ...]:
        """Shape, for which a number stands if there is one side."""
        return checked_shape(json["n"] if isinstance(json["n"], list) else [json["n"]])

    def limits(self, space: MultiBinary) -> Bounds:
        """Zeros and ones."""
        return np.zeros(space.shape, np.int8), np.ones(space.shape, np.int8)

    def choices(self, space: MultiBinary) -> int:
        """Two."""
        return 2

    def same_meaning(self, a: MultiBinary, b: MultiBinary, acted: bool) -> bool:
        """True if both have the same shape."""
        return a.shape == b.shape

    def mask(self, space: MultiBinary, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Two values of each bit; an environment may also give one: 0, 1, or 2 for both."""
        if values.size == math.prod(space.shape):
            if not np.isin(values, (0, 1, 2)).all():
                raise ValueError("0 and 1, or 2 for both")
            return np.stack((values != 1, values != 0), axis=1).ravel()
        return super().mask(space, values)


KIND = MultiBinaryKind()
