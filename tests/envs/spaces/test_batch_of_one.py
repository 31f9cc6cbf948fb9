"""A batch of one equals the batch of a vector environment, for every kind of space."""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space, Text, Tuple
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from gato_agent.envs.spaces.batch_of_one import batch_of_one, each_one, only_one
from gato_agent.envs.spaces.flatten import columns, stack
from tests.helpers.random_spaces import ONE_OF_EACH


@pytest.mark.parametrize("space", ONE_OF_EACH, ids=str)
def test_there_and_back(space: Space[Any]) -> None:
    space.seed(0)
    value = space.sample()
    batch = batch_of_one(space)(value)
    assert batch_space(space, 1).contains(batch)
    assert space.contains(only_one(space)(batch))
    expected = stack(space, [value])
    for path, column in columns(space, batch).items():
        np.testing.assert_array_equal(column, expected[path])


def test_a_batch_is_a_copy_and_its_value_a_view() -> None:
    space = ONE_OF_EACH[4]
    value = space.sample()
    batch = batch_of_one(space)(value)
    assert not np.shares_memory(batch, value)
    assert np.shares_memory(only_one(space)(batch), batch)


EMPTY = [
    Dict(), Tuple(()), Dict(a=Discrete(2), b=Dict()), Tuple((Tuple(()), Text(3))), Dict(a=Tuple((Dict(), Dict()))),
    Box(-1, 1, (0,)), Dict(a=Box(0, 255, (0, 3, 4), np.uint8), b=MultiBinary(2)),
]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("space", [*ONE_OF_EACH, *EMPTY], ids=str)
def test_a_batch_is_taken_apart_into_its_values(space: Space[Any], count: int) -> None:
    space.seed(0)
    values = [space.sample() for _ in range(count)]
    batch: Any = concatenate(space, values, create_empty_array(space, count))
    apart = each_one(space, batch, count)
    assert len(apart) == count and all(space.contains(value) for value in apart)
    assert repr(stack(space, apart)) == repr(stack(space, values))
    assert repr(batch_of_one(space)(values[0])) == repr(concatenate(space, values[:1], create_empty_array(space, 1)))


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="3 values for 2 environments"):
        each_one(Dict(a=Discrete(2)), {"a": np.zeros(3, np.int64)}, 2)
