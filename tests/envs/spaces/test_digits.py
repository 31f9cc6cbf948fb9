"""Digits are as few as possible, and every combination is a value."""

import math

import numpy as np
import pytest
from gymnasium.spaces import Discrete, MultiDiscrete
from hypothesis import example, given
from hypothesis import strategies as st

from gato_agent.envs.errors import SpaceError
from gato_agent.envs.spaces.digits import Digits, has_digits, sizes_of
from gato_agent.envs.spaces.flatten import Leaf
from gato_agent.envs.spaces.leaf_kind import CHOICES


@given(st.integers(1, 2**63 - 1))
@example(CHOICES)
@example(CHOICES**2)
@example(CHOICES**3)
@example(2**63 - 1)
def test_sizes_hold_all_values_and_not_many_more(n: int) -> None:
    sizes = sizes_of(n)
    assert all(1 <= size <= CHOICES for size in sizes)
    assert n <= math.prod(sizes) < 2**64
    assert CHOICES ** (len(sizes) - 1) < n or n == 1
    assert math.prod(sizes) <= n * 1.1 + 1


@pytest.mark.parametrize(("n", "sizes"), [(4672, (64, 73)), (1031, (24, 43)), (1024, (1024,)), (2000, (40, 50))])
def test_exact_and_even_sizes_are_preferred(n: int, sizes: tuple[int, ...]) -> None:
    assert sizes_of(n) == sizes


@given(st.integers(1, 2**62), st.integers(-(2**62), 2**61), st.data())
def test_values_come_back_and_every_code_is_one(n: int, start: int, data: st.DataObject) -> None:
    digits = Digits(Leaf("a", Discrete(n, start=start)), acted=True)
    offsets = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    values = np.array([start + offset for offset in [0, n - 1, *offsets]], np.int64)
    split = digits.split(values)
    assert digits.leaf.space.contains(split[0]) and digits.leaf.space.contains(split[-1])
    assert digits.join(split).tolist() == values.tolist()
    sizes = np.array(sizes_of(n))
    drawn = [data.draw(st.tuples(*(st.integers(0, int(size) - 1) for size in sizes))) for _ in range(3)]
    joined = digits.join(np.array([sizes - 1, 0 * sizes, *drawn], np.int64))
    assert joined.dtype == np.int64 and ((start <= joined) & (joined <= start + (n - 1))).all()
    if n > 1:
        for wrong in (start - 1, start + n):
            with pytest.raises(SpaceError, match=r"^'a': value is .*beyond its bounds"):
                digits.split(np.array([wrong]))


def test_each_element_has_its_own_digits() -> None:
    space = MultiDiscrete([[3, 2000], [1031, 1]], start=[[5, 0], [-9, 7]], dtype=np.int32)
    digits = Digits(Leaf("", space), acted=False)
    assert digits.leaf.space == MultiDiscrete([3, 40, 50, 24, 43, 1])
    values = np.array([[[7, 1999], [1021, 7]], [[5, 51], [-9, 7]]], np.int32)
    assert digits.split(values).tolist() == [[2, 39, 49, 23, 42, 0], [0, 1, 1, 0, 0, 0]]
    joined = digits.join(digits.split(values))
    assert joined.dtype == np.int32 and np.array_equal(joined, values)


def test_only_what_has_more_values_than_tokens_has_digits() -> None:
    assert has_digits(Discrete(CHOICES + 1)) and has_digits(MultiDiscrete([2, CHOICES + 1]))
    assert not has_digits(Discrete(CHOICES)) and not has_digits(MultiDiscrete([2, CHOICES]))
    with pytest.raises(SpaceError, match="has values beyond int16"):
        Digits(Leaf("", Discrete(5000, start=30000, dtype=np.int16)), acted=False)
