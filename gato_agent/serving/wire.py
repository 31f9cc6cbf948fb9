"""Frames of the policy server: msgpack with NumPy arrays, in the convention of openpi's server.

    array     {b"__ndarray__": true, b"data": bytes in C order, b"dtype": "<f4", b"shape": [2, 3]}
    scalar    {b"__npgeneric__": true, b"data": number, b"dtype": "<i8"}

A frame is one message. Nothing in it is executed: there are no object arrays, no pickles and no extension types.
"""

import math
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

PROTOCOL = 1  # raised at every change of the messages or of their meaning
SUBPROTOCOL = f"gato-agent.v{PROTOCOL}"
ARRAY, SCALAR = "__ndarray__", "__npgeneric__"
CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
DTYPES = {f"{order}{code}": np.dtype(f"{order}{code}") for code in CODES for order in "|<>="}
MAX_DIMENSIONS = 32
MAX_ENTRIES = 2**16  # of a list or map: arrays hold what is longer


class WireError(ValueError):
    """A frame that is no message, or a value that no frame can hold."""


def pack(message: Any) -> bytes:
    """Frame of a message: maps, lists, texts, numbers, and arrays of bools and numbers.

    Raises:
        WireError: a value of another type.
    """
    try:
        frame: bytes = msgpack.packb(message, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"a message cannot hold this value: {error}") from error
    return frame


def unpack(frame: bytes) -> Any:
    """Message of a frame; lists become tuples, and arrays are the caller's own.

    Raises:
        WireError: the frame is not msgpack, or an array does not fit its declaration.
    """
    try:
        return msgpack.unpackb(
            frame, object_hook=_decode, use_list=False, ext_hook=_refuse, max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
        )  # fmt: skip
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as error:
        raise WireError(f"not a msgpack frame ({type(error).__name__}: {error})") from error


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OU":  # texts; other objects are refused later
            return value.tolist()
        _known(value.dtype)
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        _known(value.dtype)
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__}")


def _known(dtype: np.dtype[Any]) -> None:
    if dtype.str not in DTYPES:
        raise TypeError(f"an array of {dtype}")


def _decode(entries: dict[Any, Any]) -> Any:
    """An array or scalar in place of the map that describes it; keys are bytes, or text from other languages."""
    kind = next((kind for kind in (ARRAY, SCALAR) if kind.encode() in entries or kind in entries), None)
    if kind is None:
        return entries
    data, dtype, shape = (entries.get(name.encode(), entries.get(name)) for name in ("data", "dtype", "shape"))
    known = DTYPES.get(dtype) if isinstance(dtype, str) else None
    if known is None:
        raise WireError(f"an array of dtype {dtype!r:.40}: send bools, integers or floats, such as '<f4'")
    if kind == SCALAR:
        if not isinstance(data, bool | int | float):
            raise WireError(f"a scalar of {type(data).__name__}")
        return known.type(data)
    return _array(data, known, shape)


def _array(data: Any, dtype: np.dtype[Any], shape: Any) -> NDArray[Any]:
    sides = isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
    if not sides or not isinstance(data, bytes):
        raise WireError(f"an array of shape {shape!r:.80} with data of type {type(data).__name__}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(f"an array of {dtype} of shape {shape!r:.80} with {len(data)} bytes")
    if dtype.kind == "b":  # a byte may be more than 1
        return np.ndarray(shape, np.uint8, data).astype(np.bool_)
    return np.ndarray(shape, dtype, data).copy()


def _refuse(code: int, _: bytes) -> Any:
    raise WireError(f"an extension type of msgpack, {code}")
