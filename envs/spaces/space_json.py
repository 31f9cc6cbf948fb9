"""Lossless conversion of spaces to strict JSON and back; the random state of a space is left out.

    Box(-inf, [1, inf])  <->  {"kind": "Box", "shape": [2], "dtype": "float32", "low": "-inf", "high": [1.0, "inf"]}

Lists are in row-major order, and are one number where all elements are equal.
"""

import math
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from numpy.typing import NDArray

from gato_agent.envs.errors import SpaceError, one_line

DTYPES = frozenset(map(np.dtype, ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]))
NAMES = {str(dtype): dtype for dtype in DTYPES}
MAX_ELEMENTS = 2**25  # of a whole space: a limit of the memory that a file's shapes can take


def space_error(path: str, what: str, row: int | None = None) -> SpaceError:
    """Build the error for the leaf at `path`; the message starts with the path unless it is the root."""
    return SpaceError(f"{path!r}: {what}" if path else what, key=path, row=row)


def unsupported(space: Space[Any], path: str) -> SpaceError:
    """Build the error for an unsupported kind of space."""
    return space_error(
        path,
        f"{type(space).__name__} spaces are not supported: wrap the environment "
        "(gymnasium.wrappers.TransformObservation or TransformAction) so that it declares a plain "
        "Box, Discrete, MultiDiscrete, MultiBinary or Text",
    )


def pointer(keys: tuple[str | int, ...]) -> str:
    """Path of the leaf at these keys and indices: a JSON Pointer (RFC 6901) without its first "/"."""
    return "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def keys_of(space: Dict[Any], keys: tuple[str | int, ...]) -> list[str]:
    """Keys of a Dict in its own order; raises SpaceError if one is not a string.

    Args:
        space: the Dict.
        keys: keys and indices that lead to it, for the message.
    """
    for key in space.spaces:
        if not isinstance(key, str):
            raise space_error(pointer(keys), f"Dict key {key!r} is not a string: use strings as keys")
    return list(space.spaces)


def space_to_json(space: Space[Any], keys: tuple[str | int, ...] = ()) -> dict[str, Any]:
    """Describe a space in strict JSON, from which `space_from_json` rebuilds it.

    Args:
        space: any nesting of Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple.
        keys: keys and indices that lead to it in a larger space, for errors.

    Raises:
        SpaceError: an unsupported kind of space or subclass, or more than MAX_ELEMENTS elements.
    """
    json = _to_json(space, keys)
    if (count := _elements(json)) > MAX_ELEMENTS:
        raise space_error(pointer(keys), f"{count:,} elements, and {MAX_ELEMENTS:,} can be described")
    return json


def _to_json(space: Space[Any], keys: tuple[str | int, ...]) -> dict[str, Any]:
    json: dict[str, Any] = {"kind": type(space).__name__}
    if type(space) is Tuple:
        return json | {"spaces": [_to_json(child, (*keys, i)) for i, child in enumerate(space.spaces)]}
    if type(space) is Dict:  # pairs, since canonical JSON would sort the keys of an object
        return json | {"spaces": [[k, _to_json(space.spaces[k], (*keys, k))] for k in keys_of(space, keys)]}
    if type(space) is Text:
        return json | {"min_length": space.min_length, "max_length": space.max_length, "charset": space.characters}
    if type(space) is MultiBinary:
        return json | {"n": space.n if isinstance(space.n, int) else list(space.n)}
    if space.dtype not in DTYPES:
        raise unsupported(space, pointer(keys))
    json |= {"shape": list(space.shape or ()), "dtype": str(space.dtype)}
    if type(space) is Discrete:
        return json | {"n": int(space.n), "start": int(space.start)}
    if type(space) is MultiDiscrete:
        return json | {"n": _listed(space.nvec), "start": _listed(space.start)}
    if type(space) is Box and not np.isposinf(space.low).any() and not np.isneginf(space.high).any():
        below, above = (~space.bounded_below, "-inf"), (~space.bounded_above, "inf")
        return json | {"low": _listed(space.low, *below), "high": _listed(space.high, *above)}
    raise unsupported(space, pointer(keys))


def _listed(array: NDArray[Any], infinite: NDArray[np.bool_] | None = None, name: str = "") -> Any:
    """List of the elements in row-major order; one number if all are equal."""
    values: list[Any] = array.ravel().tolist()
    if infinite is not None and infinite.any():
        values = [name if unbounded else value for value, unbounded in zip(values, infinite.flat, strict=True)]
    return values[0] if values and values.count(values[0]) == len(values) else values


def space_from_json(json: Any) -> Space[Any]:
    """Rebuild a space from `space_to_json`. Untrusted input is checked and never executed.

    Raises:
        SpaceError: the JSON describes no space.
    """
    try:
        if (count := _elements(json)) > MAX_ELEMENTS:
            raise ValueError(f"{count:,} elements")
        return _from_json(json)
    except (
        KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, AssertionError
    ) as error:  # fmt: skip
        raise SpaceError(f"not the description of a space ({one_line(error)}): was the file changed by hand?") from None


def _elements(json: dict[str, Any]) -> int:
    """Number of elements of all leaves, computed before any is allocated."""
    kind = json["kind"]
    if kind in ("Dict", "Tuple"):
        return sum(_elements(child[1] if kind == "Dict" else child) for child in json["spaces"])
    sides = json["n"] if kind == "MultiBinary" else json.get("shape", [])
    return math.prod(_shape(sides if isinstance(sides, list) else [sides]))


def _from_json(json: dict[str, Any]) -> Space[Any]:
    kind = json["kind"]
    if kind == "Tuple":
        return Tuple([_from_json(child) for child in json["spaces"]])
    if kind == "Dict":
        return Dict([(str(key), _from_json(child)) for key, child in json["spaces"]])
    if kind == "Text":
        least, most, charset = json["min_length"], json["max_length"], json["charset"]
        if type(charset) is not str or not type(least) is type(most) is int or not 0 <= least <= most:
            raise ValueError(f"a text of {least!r:.80} to {most!r:.80} characters")
        return Text(most, min_length=least, charset=charset)
    if kind not in ("Box", "Discrete", "MultiBinary", "MultiDiscrete"):
        raise SpaceError(f"spaces of kind {kind!r} are not supported: is the file from a newer version?")
    if kind == "MultiBinary":
        n = json["n"]
        return MultiBinary(_shape(n) if isinstance(n, list) else _shape([n])[0])
    shape, dtype = _shape(json["shape"]), NAMES[json["dtype"]]
    if kind == "Box":
        limits = np.iinfo(dtype) if dtype.kind in "iu" else None
        low, below = _from_list(json["low"], shape, dtype, {"-inf": int(limits.min) if limits else -math.inf})
        high, above = _from_list(json["high"], shape, dtype, {"inf": int(limits.max) if limits else math.inf})
        box: Box[Any] = Box(low, high, shape, dtype)
        # Integer boxes store which bounds were infinite beside their finite substitutes.
        box.bounded_below, box.bounded_above = below, above
        return box
    n, start = (_from_list(json[key], shape, dtype)[0] for key in ("n", "start"))
    if kind == "MultiDiscrete":
        return MultiDiscrete(n, dtype.type, start=start)
    return Discrete(int(n), start=int(start), dtype=dtype)


def _shape(sides: list[int]) -> tuple[int, ...]:
    if not all(type(n) is int and n >= 0 for n in sides) or math.prod(sides) > MAX_ELEMENTS:
        raise ValueError(f"shape {sides!r:.80}")
    return tuple(sides)


def _from_list(
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
