"""MultiDiscrete: an array of choices."""

from typing import Any

import numpy as np
from gymnasium.spaces import MultiDiscrete

from gato_agent.envs.spaces.json_arrays import DTYPES, NAMES, from_list, to_list
from gato_agent.envs.spaces.leaf_kind import Bounds, LeafKind, from_start


class MultiDiscreteKind(LeafKind[MultiDiscrete]):
    """An array whose elements are each one of n integers from `start` on."""

    space = MultiDiscrete

    def to_json(self, space: MultiDiscrete) -> dict[str, Any] | None:
        """Numbers of values and the first of each."""
        if space.dtype not in DTYPES:
            return None
        n, start = to_list(space.nvec), to_list(space.start)
        return {"shape": list(space.shape), "dtype": str(space.dtype), "n": n, "start": start}

    def from_json(self, json: dict[str, Any]) -> MultiDiscrete:
        """Inverse of `to_json`."""
        shape, dtype = self.json_shape(json), NAMES[json["dtype"]]
        n, start = (from_list(json[key], shape, dtype)[0] for key in ("n", "start"))
        return MultiDiscrete(n, dtype.type, start=start)

    def limits(self, space: MultiDiscrete) -> Bounds:
        """`start`, and the n-th value from there."""
        return from_start(space.start, space.nvec)

    def choices(self, space: MultiDiscrete) -> int:
        """Largest number of values of an element."""
        return int(space.nvec.max(initial=1))

    def is_grid(self, space: MultiDiscrete) -> bool:
        """True for two dimensions, each longer than one."""
        return space.nvec.ndim == 2 and min(space.nvec.shape) > 1

    def same_meaning(self, a: MultiDiscrete, b: MultiDiscrete, acted: bool) -> bool:
        """True if both have the same values."""
        return np.array_equal(a.nvec, b.nvec) and np.array_equal(a.start, b.start)


KIND = MultiDiscreteKind()
