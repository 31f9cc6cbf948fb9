"""Spaces of the same meaning: their values become the same tokens, whatever their class or width of dtype."""

import string
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Text, Tuple

from gato_agent.envs.spaces.leaf_table import find_leaf_kind

OBJECT = np.dtype(object)
LONGEST = 4096  # characters of a string in a space that is not a Text and has no limit


def plain_space(space: Space[Any]) -> Space[Any]:
    """The space with each space of strings as a Text of dtype object and shape (); itself if nothing changes.

    A custom space of strings, such as minigrid's MissionSpace, becomes a Text of printable characters. Vector
    environments that allocate arrays by shape and dtype, as Stable-Baselines3's do, then keep whole strings.
    """
    if isinstance(space, Dict):
        pairs = [(key, plain_space(child)) for key, child in space.spaces.items()]
        return space if all(child is space.spaces[key] for key, child in pairs) else Dict(pairs)
    if isinstance(space, Tuple):
        children = [plain_space(child) for child in space.spaces]
        return space if all(a is b for a, b in zip(children, space.spaces, strict=True)) else Tuple(children)
    if isinstance(space, Text):
        text: Text = space if space.dtype == OBJECT else deepcopy(space)
    elif space.dtype is not None and space.dtype.kind == "U":
        text = Text(LONGEST, charset=string.printable)
    else:
        return space
    text.dtype, text._shape = OBJECT, ()  # a Text has no shape, and a vector environment then makes no array
    return text


def same_meaning(a: Space[Any], b: Space[Any], *, acted: bool = False) -> bool:
    """True if values of both spaces have the same structure, bounds and tokens.

    The order of a Dict's keys, the width of a dtype (except uint8, which makes images), and of observed strings the
    lengths and characters have no part in tokens, and may differ.

    Args:
        a: a space.
        b: another one.
        acted: True for spaces of actions, whose strings are written in their characters.
    """
    a, b = plain_space(a), plain_space(b)
    if isinstance(a, Dict) and isinstance(b, Dict):
        return a.spaces.keys() == b.spaces.keys() and all(
            same_meaning(child, b.spaces[key], acted=acted) for key, child in a.spaces.items()
        )
    if isinstance(a, Tuple) and isinstance(b, Tuple):
        return len(a.spaces) == len(b.spaces) and all(
            same_meaning(*children, acted=acted) for children in zip(a.spaces, b.spaces, strict=True)
        )
    return _same_leaf(a, b, acted)


def _same_leaf(a: Space[Any], b: Space[Any], acted: bool) -> bool:
    kind = find_leaf_kind(a)
    if kind is not None and kind is find_leaf_kind(b):
        return kind.same_meaning(a, b, acted)
    return bool(a == b)
