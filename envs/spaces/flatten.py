"""Nested spaces and their values as flat columns: one array per leaf.

    Dict(goal=Text(8), pos=Box(2,), keys=Tuple(Discrete(3), ...))   leaves: goal  keys/0  keys/1  pos

A leaf's path is a JSON Pointer (RFC 6901) without its first "/", so any key is allowed and paths are unique.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from numpy.typing import NDArray

from gato_agent.envs.spaces.space_json import keys_of, pointer, space_error, space_from_json, space_to_json, unsupported

__all__ = [
    "Columns", "Leaf", "as_column", "batch", "brief", "columns", "leaves", "row", "space_error", "space_from_json",
    "space_to_json", "stack",
]  # fmt: skip

Columns = dict[str, NDArray[Any]]
"""Leaf path -> array [B, *leaf shape] of the leaf's dtype; a Text leaf is an object array [B] of str."""


class Leaf(NamedTuple):
    """A fundamental space inside a nested one, and its path."""

    path: str
    space: Space[Any]


def leaves(space: Space[Any]) -> list[Leaf]:
    """List the fundamental spaces: Dict keys in lexicographic order, Tuple entries by index.

    Raises:
        SpaceError: an unsupported space (Graph, Sequence, OneOf, custom), or a Dict key that is not a string.
    """
    return [leaf for _, leaf in _walk(space, ())]


def _walk(space: Space[Any], keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Leaf]]:
    """Yield each leaf with the keys and indices that lead to it."""
    if isinstance(space, Dict):
        for key in sorted(keys_of(space, keys)):
            yield from _walk(space.spaces[key], (*keys, key))
    elif isinstance(space, Tuple):
        for index, child in enumerate(space.spaces):
            yield from _walk(child, (*keys, index))
    elif isinstance(space, (Box, Discrete, MultiBinary, MultiDiscrete, Text)):
        yield keys, Leaf(pointer(keys), space)
    else:
        raise unsupported(space, pointer(keys))


def brief(space: Space[Any]) -> str:
    """Short description of a space, such as `image Box 7x7x3, mission Text`."""
    words = []
    for path, leaf in leaves(space):
        size = [leaf.n] if isinstance(leaf, Discrete) else [] if isinstance(leaf, Text) else leaf.shape or ()
        words.append(" ".join(filter(None, [path, type(leaf).__name__, "x".join(map(str, size))])))
    return ", ".join(words)


def as_column(leaf: Leaf, values: Any) -> NDArray[Any]:
    """Values of one leaf as an array [B, *leaf shape] of the leaf's dtype (Text: object [B]).

    Floats are rounded to the leaf's precision; integers must be exact.

    Raises:
        SpaceError: wrong shape or type, or a number that is not exact in an integer dtype.
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
        at = np.argwhere(wrong)[0].tolist()
        element = f"element {at[1:]}" if at[1:] else "value"
        raise space_error(path, f"{element} is {raw[tuple(at)]}, which is no {space.dtype}", row=at[0])
    return column


def _strings(path: str, values: Any) -> NDArray[Any]:
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        raise space_error(path, f"{type(values).__name__} instead of a sequence of str")
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise space_error(path, f"{type(value).__name__} instead of str", row)
    column = np.empty(len(values), dtype=object)
    column[:] = list(map(str, values))  # numpy's own strings too
    return column


def columns(space: Space[Any], batch: Any) -> Columns:
    """Split a batch of `gymnasium.vector` (B environments or timesteps) into columns.

    Raises:
        SpaceError: the structure, a shape or a dtype is not that of `space`.
    """
    return {leaf.path: as_column(leaf, _at(batch, keys, leaf.path)) for keys, leaf in _walk(space, ())}


def stack(space: Space[Any], values: Sequence[Any]) -> Columns:
    """Stack single values of `space` into columns.

    Raises:
        SpaceError: as `columns`.
    """
    return stacker(space)(values)


def stacker(space: Space[Any]) -> Callable[[Sequence[Any]], Columns]:
    """Build `stack` for one space, whose structure is then walked only once."""
    leaves_of = list(_walk(space, ()))
    return lambda values: {
        leaf.path: as_column(leaf, [_at(v, keys, leaf.path) for v in values]) for keys, leaf in leaves_of
    }


def _at(value: Any, keys: tuple[str | int, ...], path: str) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise space_error(path, "missing from the value") from None
    return value


def batch(space: Space[Any], columns: Columns) -> Any:
    """Join columns into a batch of `batch_space(space, B)`: the inverse of `columns`."""
    return _join(space, iter([columns[leaf.path] for leaf in leaves(space)]), None)


def row(space: Space[Any], columns: Columns, index: int) -> Any:
    """Row `index` as a single value of `space`; arrays are views of the columns."""
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
