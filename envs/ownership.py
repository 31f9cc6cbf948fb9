"""Ownership of arrays that pass between environments, actors and consumers of steps.

    environment ──value──▶ loop ──copy──▶ actor        actor ──value──▶ loop ──copy──▶ environment
                            └────copy──▶ Step                            └────copy──▶ Step

An array is owned by the code that made it, which may write into it at any time. So each value is copied on arrival,
before other code runs, and each receiver gets its own copy. Stored values share no memory with an environment, an
actor, an expert or a consumer of steps. Copies are made in `steps`, in actors that wrap others (`Noisy`, `Guided`),
and in `CheckedEnv` for environments that are stepped by other programs than the loop.
"""

from typing import Any

import numpy as np

INFO_DEPTH = 3  # levels of an info that are copied: an info may contain anything, even itself
ATOMS = frozenset({bool, int, float, str, type(None), np.bool_, np.int64, np.float32, np.float64})  # the common ones
CONTAINERS = (dict, list, tuple)


def owned(value: Any, depth: int = 100) -> Any:
    """Copy of a nested value: new arrays, dicts, lists and tuples; any other object is shared.

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
