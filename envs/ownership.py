"""Ownership of arrays: the one rule for all that crosses a border between programs of different authors.

    environment ──value──▶ loop ──copy──▶ actor        actor ──value──▶ loop ──copy──▶ environment
                            └────copy──▶ Step                            └────copy──▶ Step

An array belongs to whoever made it, and its owner may write into it at any time. So a value is copied as it comes in,
before other code runs, and each party that receives it gets a copy of its own. Nothing that is kept shares memory with
an environment, an actor, an expert or a receiver of steps. The borders are `steps`, the actors that are made of others
(`Noisy`, `Guided`), and the guard around each environment that is stepped by other programs than the loop.
"""

from typing import Any

import numpy as np

INFO_DEPTH = 3  # levels of an info that are copied: infos hold anything, even themselves
ATOMS = frozenset({bool, int, float, str, type(None), np.bool_, np.int64, np.float32, np.float64})  # the common ones
CONTAINERS = (dict, list, tuple)


def owned(value: Any, depth: int = 100) -> Any:
    """Copy of a nested value: new arrays, dicts, lists and tuples; anything else is passed on as it is.

    Args:
        value: an observation, an action, a batch of either, or an info.
        depth: levels of dicts, lists and tuples that are copied.
    """
    if type(value) in ATOMS:
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    if not depth or not isinstance(value, CONTAINERS):
        return value
    if isinstance(value, dict):
        return {key: item if type(item) in ATOMS else owned(item, depth - 1) for key, item in value.items()}
    items = [owned(item, depth - 1) for item in value]
    if isinstance(value, list):
        return items
    return value._make(items) if hasattr(value, "_make") else tuple(items)
