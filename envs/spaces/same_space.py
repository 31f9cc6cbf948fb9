"""Spaces of the same meaning: their values become the same tokens, whatever their class or width of dtype."""

import string
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from numpy.typing import NDArray

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
    if isinstance(a, Text) and isinstance(b, Text):
        return a == b or not acted
    if isinstance(a, Discrete) and isinstance(b, Discrete):
        return int(a.n) == int(b.n) and int(a.start) == int(b.start)
    if isinstance(a, MultiDiscrete) and isinstance(b, MultiDiscrete):
        return np.array_equal(a.nvec, b.nvec) and np.array_equal(a.start, b.start)
    if isinstance(a, MultiBinary) and isinstance(b, MultiBinary):
        return a.shape == b.shape
    if isinstance(a, Box) and isinstance(b, Box):
        return _number_kind(a) == _number_kind(b) and all(
            np.array_equal(*pair) for pair in zip(_bounds(a), _bounds(b), strict=True)
        )
    return bool(a == b)


def _number_kind(box: Box[Any]) -> str:
    """Kind of numbers whose tokens are alike: float, integer, bool or uint8."""
    kind = {"f": "float", "i": "integer", "u": "integer"}.get(box.dtype.kind, str(box.dtype))
    return "uint8" if box.dtype == np.uint8 else kind


def _bounds(box: Box[Any]) -> list[NDArray[Any]]:
    """Lower and upper bounds, floats rounded to float32, and masks of the bounds that are finite."""
    bounds: list[NDArray[Any]] = [box.low, box.high]
    with np.errstate(over="ignore"):
        bounds = [each.astype(np.float32) if each.dtype.kind == "f" else each for each in bounds]
    finite = box.dtype.kind in "iu"  # a bound of an integer Box may stand for infinity
    return bounds + [box.bounded_below, box.bounded_above] * finite
