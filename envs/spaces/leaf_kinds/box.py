"""Box: numbers within bounds."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from gato_agent.envs.spaces.json_arrays import DTYPES, NAMES, from_list, to_list
from gato_agent.envs.spaces.leaf_kind import CHOICES, Bounds, LeafKind, Ranges
from gato_agent.envs.spaces.paths import space_error


class BoxKind(LeafKind[Box[Any]]):
    """Numbers within bounds, which may be infinite."""

    space = Box

    def to_json(self, space: Box[Any]) -> dict[str, Any] | None:
        """Integer boxes keep which bounds are infinite beside their finite substitutes."""
        if space.dtype not in DTYPES or np.isposinf(space.low).any() or np.isneginf(space.high).any():
            return None
        low = to_list(space.low, ~space.bounded_below, "-inf")
        high = to_list(space.high, ~space.bounded_above, "inf")
        return {"shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}

    def from_json(self, json: dict[str, Any]) -> Box[Any]:
        """Inverse of `to_json`."""
        shape, dtype = self.json_shape(json), NAMES[json["dtype"]]
        limits = np.iinfo(dtype) if dtype.kind in "iu" else None
        low, below = from_list(json["low"], shape, dtype, {"-inf": int(limits.min) if limits else -math.inf})
        high, above = from_list(json["high"], shape, dtype, {"inf": int(limits.max) if limits else math.inf})
        box: Box[Any] = Box(low, high, shape, dtype)
        box.bounded_below, box.bounded_above = below, above
        return box

    def limits(self, space: Box[Any]) -> Bounds:
        """The declared bounds."""
        return space.low, space.high

    def bounds(self, space: Box[Any], acted: bool) -> Bounds | None:
        """Observations of floats and of wide integers have no bounds, because tokens clip them."""
        low, high = self.limits(space)
        if space.dtype.kind == "f":
            return (low, high) if acted and (np.isfinite(low) | np.isfinite(high)).any() else None
        least, most = (0, 1) if space.dtype.kind == "b" else (np.iinfo(space.dtype).min, np.iinfo(space.dtype).max)
        if not acted:
            wide = high.astype(np.uint64) - low.astype(np.uint64) >= CHOICES  # exact for any integer dtype
            low, high = np.where(wide, least, low).astype(low.dtype), np.where(wide, most, high).astype(low.dtype)
        return None if (low == least).all() and (high == most).all() else (low, high)

    def ranges(self, space: Box[Any], path: str) -> Ranges:
        """Range of each element; raises SpaceError if an element has no finite value."""
        if np.isposinf(space.low).any() or np.isneginf(space.high).any():
            raise space_error(path, f"{space} holds no finite value: declare the bounds that its values have")
        return Ranges(*map(np.ravel, (space.low, space.high, space.bounded_below, space.bounded_above)))

    def sound(self, space: Box[Any], acted: bool, bounds: Bounds | None) -> Callable[[Any], bool]:
        """As of all kinds, and finite."""
        if bounds is not None or space.dtype.kind != "f":
            return super().sound(space, acted, bounds)
        shape, dtype, zeros, array = space.shape, space.dtype, np.zeros(space.shape, space.dtype), np.ndarray
        # 0 * x is 0 unless x is NaN or infinite; the product is faster than np.isfinite(x).all().
        return lambda value: bool(
            type(value) is array and value.shape == shape and value.dtype == dtype and np.vdot(zeros, value) == 0.0
        )

    def same_meaning(self, a: Box[Any], b: Box[Any], acted: bool) -> bool:
        """True for equal bounds and numbers of one kind; uint8, which makes images, is a kind of its own."""
        return _number_kind(a) == _number_kind(b) and all(
            np.array_equal(*pair) for pair in zip(_rounded_bounds(a), _rounded_bounds(b), strict=True)
        )


def _number_kind(box: Box[Any]) -> str:
    """Kind of numbers whose tokens are alike: float, integer, bool or uint8."""
    kind = {"f": "float", "i": "integer", "u": "integer"}.get(box.dtype.kind, str(box.dtype))
    return "uint8" if box.dtype == np.uint8 else kind


def _rounded_bounds(box: Box[Any]) -> list[NDArray[Any]]:
    """Lower and upper bounds, floats rounded to float32, and masks of the bounds that are finite."""
    bounds: list[NDArray[Any]] = [box.low, box.high]
    with np.errstate(over="ignore"):
        bounds = [each.astype(np.float32) if each.dtype.kind == "f" else each for each in bounds]
    finite = box.dtype.kind in "iu"  # a bound of an integer Box may stand for infinity
    return bounds + [box.bounded_below, box.bounded_above] * finite


KIND = BoxKind()
