"""A (nested) space and its values as plain data: one array per leaf, and JSON for the space itself.

    Dict(goal=Text(8), pos=Box(2,), keys=Tuple(Discrete(3), ...))   leaves: goal  keys/0  keys/1  pos

A leaf's path is a JSON Pointer (RFC 6901) without its first "/", so any key is allowed and no two leaves collide.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from numpy.typing import NDArray

from gato_agent.envs.errors import SpaceError

Columns = dict[str, NDArray[Any]]
"""Leaf path -> array [B, *leaf shape] of the leaf's dtype; a Text leaf is an object array [B] of str."""

DTYPES = frozenset(map(np.dtype, ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]))
MAX_ELEMENTS = 2**26  # of one leaf: no file may ask for more memory than this by naming a shape


class Leaf(NamedTuple):
    """One fundamental space inside a nested one."""

    path: str
    space: Space[Any]


def space_error(path: str, what: str, row: int | None = None) -> SpaceError:
    """Build the error for the leaf at `path`; the message starts with the path unless it is the root."""
    return SpaceError(f"{path!r}: {what}" if path else what, key=path, row=row)


def leaves(space: Space[Any]) -> list[Leaf]:
    """List the fundamental spaces: Dict keys in lexicographic order, Tuple entries by index.

    Raises:
        SpaceError: a space that has no rule (Graph, Sequence, OneOf, custom), or a Dict key that is not a string.
    """
    return [leaf for _, leaf in _walk(space, ())]


def _walk(space: Space[Any], keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Leaf]]:
    """Yield each leaf with the keys and indices that lead to it."""
    path = "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    if isinstance(space, Dict):
        for key in space.spaces:
            if not isinstance(key, str):
                raise space_error(path, f"Dict key {key!r} is not a string: name it by one")
        for key, child in sorted(space.spaces.items()):
            yield from _walk(child, (*keys, key))
    elif isinstance(space, Tuple):
        for index, child in enumerate(space.spaces):
            yield from _walk(child, (*keys, index))
    elif isinstance(space, (Box, Discrete, MultiBinary, MultiDiscrete, Text)):
        yield keys, Leaf(path, space)
    else:
        raise _unsupported(space, path)


def _unsupported(space: Space[Any], path: str) -> SpaceError:
    return space_error(
        path,
        f"{type(space).__name__} spaces are not supported: wrap the environment "
        "(gymnasium.wrappers.TransformObservation or TransformAction) so that it declares a plain "
        "Box, Discrete, MultiDiscrete, MultiBinary or Text",
    )


def as_column(leaf: Leaf, values: Any) -> NDArray[Any]:
    """Return the values of one leaf as an array [B, *leaf shape] of the leaf's dtype (Text: object [B]).

    Floats are cast to the leaf's precision; whatever an integer leaf cannot hold exactly is refused.

    Raises:
        SpaceError: wrong shape or kind, or a number that the leaf's dtype cannot hold.
    """
    path, space = leaf
    if isinstance(space, Text):
        return _strings(path, values)
    assert space.shape is not None
    try:
        raw = np.asarray(values)
    except ValueError:
        raise space_error(path, "values have differing shapes") from None
    if raw.dtype.kind not in "biuf" or raw.shape[1:] != space.shape or raw.ndim == 0:
        raise space_error(path, f"shape {raw.shape[1:]} of {raw.dtype} instead of {space.shape} of {space.dtype}")
    if raw.dtype == space.dtype:
        return raw
    with np.errstate(over="ignore", invalid="ignore"):
        column = raw.astype(space.dtype)
        wrong = np.zeros(0, bool) if column.dtype.kind == "f" else column != raw
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0].tolist())
        what = f"element {list(at[1:])} is {raw[at]}, which is no {space.dtype}"
        raise space_error(path, what, row=at[0])
    return column


def _strings(path: str, values: Any) -> NDArray[Any]:
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        raise space_error(path, f"{type(values).__name__} instead of a sequence of str")
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise space_error(path, f"{type(value).__name__} instead of str", row)
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column


def columns(space: Space[Any], batch: Any) -> Columns:
    """Split a batch in the form of `gymnasium.vector` (B lanes or timesteps) into columns.

    Raises:
        SpaceError: the structure, a shape or a dtype is not that of `space`.
    """
    return {leaf.path: as_column(leaf, _at(batch, keys, leaf.path)) for keys, leaf in _walk(space, ())}


def stack(space: Space[Any], values: Sequence[Any]) -> Columns:
    """Stack single values of `space` (what `space.contains` accepts) into columns.

    Raises:
        SpaceError: as `columns`.
    """
    return {leaf.path: as_column(leaf, [_at(v, keys, leaf.path) for v in values]) for keys, leaf in _walk(space, ())}


def _at(value: Any, keys: tuple[Any, ...], path: str) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise space_error(path, "missing from the value") from None
    return value


def batch(space: Space[Any], columns: Columns) -> Any:
    """Join columns into what `batch_space(space, B)` contains: the inverse of `columns`."""
    return _join(space, iter([columns[leaf.path] for leaf in leaves(space)]), None)


def row(space: Space[Any], columns: Columns, index: int) -> Any:
    """Return row `index` as a single value that `space` contains; arrays are views of the columns."""
    return _join(space, iter([columns[leaf.path] for leaf in leaves(space)]), index)


def _join(space: Space[Any], remaining: Any, index: int | None) -> Any:
    if isinstance(space, Dict):
        parts = {key: _join(space.spaces[key], remaining, index) for key in sorted(space.spaces)}
        return {key: parts[key] for key in space.spaces}
    if isinstance(space, Tuple):
        return tuple(_join(child, remaining, index) for child in space.spaces)
    column = next(remaining)
    if index is None:
        return tuple(column) if isinstance(space, Text) else column
    # `[index, ...]` keeps a Box of shape () an array, where `[index]` would make it a scalar.
    return column[index] if isinstance(space, (Discrete, Text)) else column[index, ...]


def space_to_json(space: Space[Any]) -> dict[str, Any]:
    """Describe a space in strict JSON; `space_from_json` gives it back exactly, without its random state.

    Raises:
        SpaceError: a kind of space, or a subclass, that JSON cannot describe.
    """
    kind, path = type(space), ""
    json: dict[str, Any] = {"kind": kind.__name__}
    if kind is Tuple and isinstance(space, Tuple):
        return json | {"spaces": [space_to_json(child) for child in space.spaces]}
    if kind is Dict and isinstance(space, Dict):  # pairs, since canonical JSON would sort the keys of an object
        leaves(space)
        return json | {"spaces": [[key, space_to_json(child)] for key, child in space.spaces.items()]}
    if kind is Text and isinstance(space, Text):
        charset = "".join(space.character_list)
        return json | {"min_length": space.min_length, "max_length": space.max_length, "charset": charset}
    if space.dtype not in DTYPES:
        raise _unsupported(space, path)
    json |= {"shape": list(space.shape or ()), "dtype": str(space.dtype)}
    if kind is MultiBinary:
        return json
    if kind is Discrete and isinstance(space, Discrete):
        return json | {"n": int(space.n), "start": int(space.start)}
    if kind is MultiDiscrete and isinstance(space, MultiDiscrete):
        return json | {"n": _to_json(space.nvec), "start": _to_json(space.start)}
    if kind is Box and isinstance(space, Box):
        below, above = (~space.bounded_below, "-inf"), (~space.bounded_above, "inf")
        return json | {"low": _to_json(space.low, *below), "high": _to_json(space.high, *above)}
    raise _unsupported(space, path)


def _to_json(array: NDArray[Any], infinite: NDArray[np.bool_] | None = None, name: str = "") -> Any:
    """List the elements in row-major order; one number where all are equal."""
    values: list[Any] = array.ravel().tolist()
    if infinite is not None and infinite.any():
        values = [name if unbounded else value for value, unbounded in zip(values, infinite.flat, strict=True)]
    return values[0] if values and values.count(values[0]) == len(values) else values


def space_from_json(json: Any) -> Space[Any]:
    """Rebuild a space from `space_to_json`. The input may come from anywhere: it is checked, never run.

    Raises:
        SpaceError: not the description of a space.
    """
    try:
        return _from_json(json)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise SpaceError(f"not the description of a space ({error}): was the file changed by hand?") from None


def _from_json(json: dict[str, Any]) -> Space[Any]:
    kind = json["kind"]
    if kind == "Tuple":
        return Tuple([_from_json(child) for child in json["spaces"]])
    if kind == "Dict":
        return Dict([(str(key), _from_json(child)) for key, child in json["spaces"]])
    if kind == "Text":
        return Text(json["max_length"], min_length=json["min_length"], charset=str(json["charset"]))
    if kind not in ("Box", "Discrete", "MultiBinary", "MultiDiscrete"):
        raise SpaceError(f"spaces of kind {kind!r} are not supported: is the file from a newer version?")
    shape, dtype = tuple(json["shape"]), np.dtype(str(json["dtype"]))
    if dtype not in DTYPES or not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"shape {shape} of {dtype}")
    if kind == "MultiBinary":
        return MultiBinary(shape)
    if kind == "Box":
        low, below = _from_list(json["low"], shape, dtype, "-inf")
        high, above = _from_list(json["high"], shape, dtype, "inf")
        box: Box[Any] = Box(low, high, shape, dtype)
        # Integer boxes remember which bounds were infinite beside the numbers that stand for them.
        box.bounded_below, box.bounded_above = below, above
        return box
    n, start = (_from_list(json[key], shape, dtype)[0] for key in ("n", "start"))
    if kind == "MultiDiscrete":
        return MultiDiscrete(n, dtype.type, start=start)
    return Discrete(int(n), start=int(start), dtype=dtype)


def _from_list(
    value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], infinite: str = ""
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the array and where it is bounded; refuse numbers that `dtype` does not hold exactly."""
    given = value if isinstance(value, list) else [value]
    if dtype.kind == "f":
        limit: Any = float(infinite or "nan")
    else:
        limit = 0 if dtype.kind == "b" else int(getattr(np.iinfo(dtype), "min" if infinite == "-inf" else "max"))
    values = [limit if infinite and item == infinite else item for item in given]
    array = np.array(values, dtype=dtype)
    if array.tolist() != values:
        raise ValueError(f"not exactly {dtype}: {value!r:.80}")
    bounded = np.array([item != infinite for item in given], dtype=np.bool_)
    if not isinstance(value, list):
        return np.full(shape, array[0]), np.full(shape, bounded[0])
    return array.reshape(shape), bounded.reshape(shape)
