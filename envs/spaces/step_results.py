"""Conversion of results of an environment: rewards, end flags and success to Python's own types, frames to arrays."""

from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUCCESS = ("success", "is_success")  # keys of infos that report success
MOST = 1e100  # largest magnitude of a return, so that the variance of returns is finite


def reward_of(value: Any) -> float:
    """Convert a reward, a number or an array of one number, to a float.

    Raises:
        ValueError: no number, or one that is not finite or beyond MOST.
    """
    if not isinstance(value, (float, int, np.floating, np.integer)):
        array = _array(value)
        if array.size != 1 or not (array.dtype.kind in "biuf" or isinstance(array.item(), (Real, Decimal))):
            raise ValueError(f"a reward that is not one number: {brief(value)}")
        value = array.item()
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        number = np.inf
    if not -MOST < number < MOST:
        raise ValueError(f"a reward that is not a finite number: {brief(value)}")
    return number


def flag_of(value: Any, name: str) -> bool:
    """Convert `terminated` or `truncated`, a bool, a number, None or an array of one of them, to a bool.

    Raises:
        ValueError: something else, such as one flag for each of many agents.
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return bool(value)
    array = _array(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() != array.item():
        raise ValueError(f"{name} that is not one truth value: {brief(value)}")
    return bool(array.item())


def _array(value: Any) -> NDArray[Any]:
    """A value as an array; an empty one for rows of different lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.zeros(0)


def success_of(info: Mapping[Any, Any]) -> bool | None:
    """Success flag of an info, under either of its usual keys; None if there is none."""
    reported = [info[key] for key in SUCCESS if key in info]
    return any(map(_is_true, reported)) if reported else None


def _is_true(value: Any) -> bool:
    try:
        return bool(np.any(value))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  # an info may contain anything, such as an object without a truth value
        return False


def image_of(frame: Any) -> NDArray[np.uint8]:
    """A rendered frame as a new array, uint8 [height, width, 3].

    Args:
        frame: integers from 0 to 255 of any dtype, gray, RGB or RGBA.

    Raises:
        ValueError: the frame is no such array.
    """
    try:
        array = np.array(frame)
    except ValueError:  # rows of different lengths
        array = np.zeros(0)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size or array.dtype.kind not in "iu":
        raise ValueError(f"{brief(frame)} for an image of integers [height, width, 3]")
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"an image with values from {array.min()} to {array.max()}, beyond 0 to 255")
    array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]
    return np.ascontiguousarray(array, np.uint8)


def brief(value: Any) -> str:
    """Representation of a value for a message, at most 80 characters; a large array by its shape and dtype."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"an array of shape {value.shape} of {value.dtype}"
    try:
        text = " ".join(f"{value!r}".split())
    except Exception:  # noqa: BLE001  # from the `__repr__` of another package's class, or nested too deeply
        text = f"a value of type {type(value).__name__}"
    kind = f" ({type(value).__name__} of shape {value.shape})" if isinstance(value, np.ndarray) else ""
    return (text if len(text) <= 80 else f"{text[:77]}...") + kind
