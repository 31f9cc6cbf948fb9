"""Arrays of numbers as JSON lists in row-major order, which are one number where all elements are equal."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = frozenset(map(np.dtype, ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]))
NAMES = {str(dtype): dtype for dtype in DTYPES}
MAX_ELEMENTS = 2**25  # of a whole space: a limit of the memory that a file's shapes can take


def to_list(array: NDArray[Any], infinite: NDArray[np.bool_] | None = None, name: str = "") -> Any:
    """List of the elements in row-major order; one number if all are equal.

    Args:
        array: numbers.
        infinite: elements to write as `name`, of the same shape; None for none.
        name: string for them.
    """
    values: list[Any] = array.ravel().tolist()
    if infinite is not None and infinite.any():
        values = [name if unbounded else value for value, unbounded in zip(values, infinite.flat, strict=True)]
    return values[0] if values and values.count(values[0]) == len(values) else values


def from_list(
    value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], infinite: dict[str, Any] | None = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Array of a list, and a mask of its finite elements; raises ValueError for numbers not exact in `dtype`."""
    items = value if isinstance(value, list) else [value]
    values = [(infinite or {}).get(item, item) for item in items]
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=dtype)
    bounded = np.array([not isinstance(item, str) for item in items], dtype=np.bool_)
    if array.tolist() != values:
        raise ValueError(f"not exactly {dtype}: {value!r:.80}")
    if not isinstance(value, list):
        return np.full(shape, array[0]), np.full(shape, bounded[0])
    return array.reshape(shape), bounded.reshape(shape)


def checked_shape(sides: list[int]) -> tuple[int, ...]:
    """Shape of a file; raises ValueError for sides that are no sizes, or more than MAX_ELEMENTS elements."""
    if not all(type(n) is int and n >= 0 for n in sides) or math.prod(sides) > MAX_ELEMENTS:
        raise ValueError(f"shape {sides!r:.80}")
    return tuple(sides)
