"""Discrete: one of n integers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from gato_agent.envs.spaces.json_arrays import DTYPES, NAMES, from_list
from gato_agent.envs.spaces.leaf_kind import Bounds, LeafKind, from_start


class DiscreteKind(LeafKind[Discrete]):
    """One of n integers from `start` on."""

    space, scalar = Discrete, True

    def to_json(self, space: Discrete) -> dict[str, Any] | None:
        """Number of values and the first."""
        if space.dtype not in DTYPES:
            return None
        return {"shape": [], "dtype": str(space.dtype), "n": int(space.n), "start": int(space.start)}

    def from_json(self, json: dict[str, Any]) -> Discrete:
        """Inverse of `to_json`."""
        shape, dtype = self.json_shape(json), NAMES[json["dtype"]]
        n, start = (from_list(json[key], shape, dtype)[0] for key in ("n", "start"))
        return Discrete(int(n), start=int(start), dtype=dtype)

    def limits(self, space: Discrete) -> Bounds:
        """`start`, and the n-th value from there."""
        return from_start(space.start, space.n)

    def choices(self, space: Discrete) -> int:
        """Number of values."""
        return int(space.n)

    def sound(self, space: Discrete, acted: bool, bounds: Bounds | None) -> Callable[[Any], bool]:
        """Any integer type is valid."""
        integer, first, end = (int, np.integer), int(space.start), int(space.start) + int(space.n)
        return lambda value: bool(isinstance(value, integer) and first <= value < end)

    def same_meaning(self, a: Discrete, b: Discrete, acted: bool) -> bool:
        """True if both have the same values."""
        return int(a.n) == int(b.n) and int(a.start) == int(b.start)


KIND = DiscreteKind()
