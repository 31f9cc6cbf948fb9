"""Mu-law companding, and the coding rules of numbers as bins and back (Gato paper, section 2.1).

    action in Box(0, 4), 3.0        ->  0.5 of [-1, 1]             ->  bin 768
    action in Box(0, inf), 3.0      ->  0.56 of [0, 1], companded  ->  bin 800; bins below 512 are not legal
    observation in Box(0, 4), 3.0   ->  0.56 of [-1, 1], companded ->  bin 800

Observations keep their scale: the meaning of an element must not depend on the width of its declared bounds.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Leaf
from gato_agent.envs.spaces.leaf_kind import CHOICES

BINS = CHOICES  # continuous bins, and discrete values that have a token each
MU, M = 100.0, 256.0
SIGN = np.uint64(2**63)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def compand(x: Floats) -> Floats:
    """Mu-law: [-256, 256] -> [-1, 1]."""
    return np.sign(x) * np.log1p(np.abs(x) * MU) / math.log1p(M * MU)


def expand(y: Floats) -> Floats:
    """Inverse of `compand`."""
    return np.sign(y) * np.expm1(np.abs(y) * math.log1p(M * MU)) / MU


class Rules(NamedTuple):
    """Coding rules of the elements of some leaves; arrays of one entry per element.

    A continuous value is clipped to [low, high] and coded by v = (value - center) / half: linearly, v in [-1, 1],
    or companded, v in [-256, 256]. Integers are first taken as the unsigned `value + bias - base`, exact for any
    dtype (the bias keeps the order of signed ones). If there are `choices`, that difference is the token.
    """

    low: NDArray[Any]
    high: NDArray[Any]
    bias: NDArray[np.uint64]
    base: NDArray[np.uint64]
    choices: NDArray[np.uint64]  # 0 where continuous
    center: Floats
    half: Floats
    companded: Bools
    bins: NDArray[np.int64]  # [2, elements]: first and last bin


def rules_of(leaf: Leaf, action: bool) -> Rules:
    """Derive the rules of one leaf's elements from its space.

    Raises:
        SpaceError: discrete values beyond the dtype, or bounds that hold no finite value.
    """
    ranges = leaf.kind.ranges(leaf.space, leaf.path)
    if leaf.dtype.kind == "f":
        return _float_rules(ranges.low, ranges.high, action)
    return _integer_rules(*ranges, action)


def _float_rules(low: NDArray[Any], high: NDArray[Any], action: bool) -> Rules:
    limit = float(np.finfo(low.dtype).max)
    low, high = low.astype(np.float64), high.astype(np.float64)
    if action:  # where an infinite bound leaves less than 256 to the largest number of the dtype, that is the bound
        near_low, near_high = np.isneginf(low) & (high < M - limit), np.isposinf(high) & (low > limit - M)
        low, high = np.where(near_low, -limit, low), np.where(near_high, limit, high)
    else:
        narrow = (low >= -1) & (high <= 1)
        low, high = np.where(narrow, -1.0, -np.inf), np.where(narrow, 1.0, np.inf)
    below, above = np.isfinite(low), np.isfinite(high)
    finite, anchor = below & above, np.select([below, above], [low, high], 0.0)
    # The middle lies within the bounds and `half` does not exceed the way to the nearer one, so that rounding,
    # which is monotone, cannot carry center + half * v past them.
    a, b = np.where(finite, low, 0), np.where(finite, high, 0)
    middle = np.clip(a / 2 + b / 2, a, b)
    none = np.zeros(low.shape, np.uint64)
    return Rules(
        low=np.where(below, low, anchor - M),
        high=np.where(above, high, anchor + M),
        bias=none,
        base=none,
        choices=none,
        center=np.where(finite, middle, anchor),
        half=np.where(finite, np.minimum(b - middle, middle - a), 1.0),
        companded=~finite,
        bins=_side(below, above),
    )


def _integer_rules(low: NDArray[Any], high: NDArray[Any], below: Bools, above: Bools, action: bool) -> Rules:
    one, reach, largest = np.uint64(1), np.uint64(M), np.uint64(2**64 - 1)
    bias = np.full(low.shape, SIGN if low.dtype.kind == "i" else 0, np.uint64)
    low, high = low.astype(np.uint64) + bias, high.astype(np.uint64) + bias
    span = high - low
    discrete = span < BINS
    if not action:
        below = above = discrete
    finite, anchor = below & above, np.select([below, above], [low, high], bias)
    linear = finite & ~discrete
    return Rules(
        low=np.where(discrete, 0 * one, np.where(below, low, anchor - np.minimum(anchor, reach))),
        high=np.where(discrete, largest, np.where(above, high, anchor + reach)),
        bias=bias,
        base=np.where(discrete, low, np.where(finite, high - span // (one + one), anchor)),
        choices=np.where(discrete, span + one, 0 * one),
        center=np.where(linear, (span % (one + one)) / -2, 0.0),  # an odd span has its middle between two integers
        half=np.where(linear, span / 2, 1.0),
        companded=~finite & ~discrete,
        bins=_side(below | discrete, above | discrete),
    )


def _side(below: Bools, above: Bools) -> NDArray[np.int64]:
    """First and last bin: with a single bound, only the bins on its inner side."""
    return np.stack((np.where(below & ~above, BINS // 2, 0), np.where(above & ~below, BINS // 2 - 1, BINS - 1)))
