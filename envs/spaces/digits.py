"""Discrete values beyond 1,024 as digits, each of which is one token.

    Discrete(4672)    value 4000  <->  digits (54, 58) of sizes (64, 73): 54 * 73 + 58
    Discrete(1031)    value 1030  <->  digits (23, 42) of sizes (24, 43), which have 1,032 codes

Every combination of digits is a valid value: where there are more codes than values, some values have two codes.
"""

import math
from typing import Any

import numpy as np
from gymnasium.spaces import MultiDiscrete, Space
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Leaf
from gato_agent.envs.spaces.leaf_kind import CHOICES
from gato_agent.envs.spaces.leaf_table import leaf_kind
from gato_agent.envs.spaces.values import LeafValidator


class Digits:
    """Conversion of a leaf of choices to digits and back.

    Args:
        leaf: the leaf, with its path.
        acted: true for actions, false for observations.

    Raises:
        SpaceError: the dtype is too narrow for the largest value.

    Attributes:
        leaf: the same path with the space of the digits, a one-dimensional MultiDiscrete that starts at 0.
        places: index of each digit among those of its value.
        counts: number of values of each element.
    """

    def __init__(self, leaf: Leaf, acted: bool) -> None:
        self._leaf, self._validator = leaf, LeafValidator(leaf, acted)
        low, high, *_ = leaf.kind.ranges(leaf.space, leaf.path)
        self._start = low.astype(np.uint64)
        self.counts: list[int] = [last - first + 1 for first, last in zip(low.tolist(), high.tolist(), strict=True)]
        sizes = [sizes_of(n) for n in self.counts]
        self._codes = [math.prod(each) for each in sizes]
        self._element = np.repeat(np.arange(len(sizes)), [len(each) for each in sizes])
        self._first = np.cumsum([0, *(len(each) for each in sizes[:-1])])
        self._sizes = np.array([size for each in sizes for size in each], np.uint64)
        self._weights = np.array([math.prod(each[i + 1 :]) for each in sizes for i in range(len(each))], np.uint64)
        self.places = [place for each in sizes for place in range(len(each))]
        self.leaf = Leaf(leaf.path, MultiDiscrete(self._sizes.astype(np.int64)))

    def split(self, column: NDArray[Any]) -> NDArray[np.int64]:
        """Values [B, *shape] -> digits [B, digits]; raises SpaceError for a value outside of the space."""
        valid = self._validator.column(column)
        codes = valid.reshape(len(valid), -1).astype(np.uint64) - self._start
        for i, (n, count) in enumerate(zip(self.counts, self._codes, strict=True)):
            if n != count:
                codes[:, i] = [-(-int(value) * count // n) for value in codes[:, i]]
        return (codes[:, self._element] // self._weights % self._sizes).astype(np.int64)

    def join(self, digits: NDArray[np.int64]) -> NDArray[Any]:
        """Digits [B, digits] -> values [B, *shape] of the space's dtype."""
        codes = np.add.reduceat(digits.astype(np.uint64) * self._weights, self._first, axis=1)
        for i, (n, count) in enumerate(zip(self.counts, self._codes, strict=True)):
            if n != count:
                codes[:, i] = [int(code) * n // count for code in codes[:, i]]
        values = (codes + self._start).astype(self._leaf.dtype)
        return np.asarray(values.reshape(len(values), *self._leaf.shape))

    def masks(self, allowed: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
        """Allowed digits, from allowed values.

        Args:
            allowed: bool [sum of the elements' values], with at least one True for each element; below 2^31 of them.

        Returns:
            For each digit bool [choices of the digits before it, size]. Rows that no allowed value begins with are
            True, for they are never reached.
        """
        blocks: list[NDArray[np.bool_]] = []
        ends = np.cumsum(self.counts)
        for element, (end, n, count) in enumerate(zip(ends, self.counts, self._codes, strict=True)):
            of_value = allowed[end - n : end]
            rest = of_value[np.arange(count) * n // count] if n != count else of_value
            rest = rest.reshape(1, count)
            for size in self._sizes[self._element == element].tolist():
                rest = rest.reshape(-1, rest.shape[1] // size)
                block = np.any(rest, axis=1).reshape(-1, size)
                blocks.append(block | ~np.any(block, axis=1, keepdims=True))
        return blocks


def has_digits(space: Space[Any]) -> bool:
    """True if an element of the leaf space has more than CHOICES values."""
    return leaf_kind(space).choices(space) > CHOICES


def sizes_of(n: int) -> tuple[int, ...]:
    """Sizes of the digits of n values, at most CHOICES each: the fewest digits with the fewest surplus codes.

    Ties go to the most similar sizes. Beyond CHOICES squared the surplus is small, but not always the least.
    """
    if n <= CHOICES:
        return (n,)
    count = 2
    while CHOICES**count < n:
        count += 1
    if count > 2:
        first = math.ceil(n ** (1 / count))
        while CHOICES ** (count - 1) * first < n:
            first += 1
        return (first, *sizes_of(-(-n // first)))
    fewest = range(-(-n // CHOICES), math.isqrt(n) + 2)
    first = min(fewest, key=lambda size: (size * -(-n // size) - n, -(-n // size) - size))
    return (first, -(-n // first))
