"""Fast conversion between batches and single values, which saves the overhead of a vector environment of one."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Tuple

from gato_agent.envs.spaces.leaf_kind import LeafKind
from gato_agent.envs.spaces.leaf_table import find_leaf_kind

ARRAYS: LeafKind[Any] = LeafKind()  # values of unknown spaces are taken for arrays


def is_object(space: Space[Any]) -> bool:
    """True for a leaf space whose values are Python objects, of which a batch is a tuple."""
    return _kind(space).objects


def _kind(space: Space[Any]) -> LeafKind[Any]:
    return find_leaf_kind(space) or ARRAYS


def batch_of_one(space: Space[Any]) -> Callable[[Any], Any]:
    """Build the function from a value to a batch of one, a copy in `batch_space(space, 1)`."""
    if isinstance(space, Dict):
        entries = [(key, batch_of_one(entry)) for key, entry in space.spaces.items()]
        return lambda value: {key: batch(value[key]) for key, batch in entries}
    if isinstance(space, Tuple):
        batches = [batch_of_one(entry) for entry in space.spaces]
        return lambda value: tuple([batch(item) for batch, item in zip(batches, value, strict=True)])
    if is_object(space):
        return lambda value: (value,)
    array, dtype = np.array, space.dtype
    return lambda value: array(value, dtype)[None]


def only_one(space: Space[Any], copy: bool = False) -> Callable[[Any], Any]:
    """Build the function from a batch in `batch_space(space, 1)` to its only value.

    Args:
        space: space of the value.
        copy: true to copy arrays, false for views of the batch.
    """
    if isinstance(space, Dict):
        entries = [(key, only_one(entry, copy)) for key, entry in space.spaces.items()]
        return lambda batch: {key: one(batch[key]) for key, one in entries}
    if isinstance(space, Tuple):
        ones = [only_one(entry, copy) for entry in space.spaces]
        return lambda batch: tuple([one(item) for one, item in zip(ones, batch, strict=True)])
    if _kind(space).scalar:
        return lambda batch: batch[0]
    if copy:
        array = np.array
        return lambda batch: array(batch[0])  # an array, also for a Box of shape ()
    return lambda batch: batch[0, ...]  # an array, also for a Box of shape ()


def each_one(space: Space[Any], batch: Any, count: int) -> list[Any]:
    """List of the values of a batch in `batch_space(space, count)`; arrays are views.

    Unlike Gymnasium's `iterate`, it supports empty Dict and Tuple spaces.

    Raises:
        ValueError: the batch has another number of values.
    """
    if isinstance(space, Dict):
        columns = {key: each_one(entry, batch[key], count) for key, entry in space.spaces.items()}
        return [{key: column[i] for key, column in columns.items()} for i in range(count)]
    if isinstance(space, Tuple):
        parts = [each_one(entry, item, count) for entry, item in zip(space.spaces, batch, strict=True)]
        return [tuple([part[i] for part in parts]) for i in range(count)]
    if len(batch) != count:
        raise ValueError(f"{len(batch)} values for {count} environments")
    if _kind(space).scalar or space.shape:
        return list(batch)
    return [batch[i, ...] for i in range(count)]  # arrays, also for a Box of shape ()
