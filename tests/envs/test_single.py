"""A batch of one is what a vector environment of one lane would give, for every kind of space."""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Space
from gymnasium.vector.utils import batch_space

from gato_agent.envs.single import batch_of_one, only_one
from gato_agent.envs.structure import columns, stack
from tests.envs.test_loop import SPACES


@pytest.mark.parametrize("space", SPACES, ids=str)
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
    space = SPACES[4]
    value = space.sample()
    batch = batch_of_one(space)(value)
    assert not np.shares_memory(batch, value)
    assert np.shares_memory(only_one(space)(batch), batch)
