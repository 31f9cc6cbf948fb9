"""Nested spaces and their values as flat columns: one array per leaf.

    Dict(goal=Text(8), pos=Box(2,), keys=Tuple(Discrete(3), ...))   leaves: goal  keys/0  keys/1  pos

A leaf's path is a JSON Pointer (RFC 6901) without its first "/", so any key is allowed and paths are unique.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Dict, Space, Tuple
from numpy.typing import NDArray

from gato_agent.envs.spaces.leaf_kind import LeafKind
from gato_agent.envs.spaces.leaf_table import leaf_kind
from gato_agent.envs.spaces.paths import keys_of, pointer, space_error
from gato_agent.envs.spaces.space_json import space_from_json, space_to_json

__all__ = [
    "Columns", "Leaf", "as_column", "batch", "columns", "leaves", "row", "space_error", "space_from_json",
    "space_to_json", "stack",
]  # fmt: skip

Columns = dict[str, NDArray[Any]]
"""Leaf path -> array [B, *leaf shape] of the leaf's dtype; a Text leaf is an object array [B] of str."""


class Leaf(NamedTuple):
    """A fundamental space inside a nested one, and its path."""

    path: str
    space: Space[Any]

    @property
    def kind(self) -> LeafKind[Any]:
        """Kind of the space; raises SpaceError if it is unknown."""
        return leaf_kind(self.space, self.path)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row of the leaf's column."""
        return self.kind.shape(self.space)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the leaf's column."""
        return self.kind.dtype(self.space)


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
    else:
        leaf_kind(space, pointer(keys))
        yield keys, Leaf(pointer(keys), space)


def as_column(leaf: Leaf, values: Any) -> NDArray[Any]:
    """Values of one leaf as an array [B, *leaf shape] of the column's dtype (Text: object [B]).

    Floats are rounded to the leaf's precision; integers must be exact.

    Raises:
        SpaceError: wrong shape or type, or a number that is not exact in an integer dtype.
    """
    return leaf.kind.column(leaf.space, leaf.path, values)


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
    column, kind = next(remaining), leaf_kind(space)
    return kind.batch(space, column) if index is None else kind.row(space, column, index)
