"""The quick look at actions says yes only where each of them is in the space."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from gato_agent.rollouts.player import _surely_inside

BOX = Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "values", "sure"),
    [
        (BOX, [np.zeros(2, np.float32)] * 3, True),
        (BOX, [np.zeros(2, np.float64)], False),  # Box.contains says no: it would be stored as another number
        (BOX, [np.zeros(2, np.float32), np.full(2, np.nan, np.float32)], False),
        (BOX, [np.zeros(2, np.float32), np.full(2, 1.1, np.float32)], False),
        (BOX, [np.zeros(3, np.float32)], False),
        (BOX, [np.zeros(2, np.float32), np.zeros(3, np.float32)], False),
        (Discrete(3, start=1), [np.int64(1), np.int64(3)], True),
        (Discrete(3, start=1), [np.int64(0)], False),
        (Discrete(3, start=1), [np.int64(4)], False),
        (Discrete(3, start=1), [1.0], False),
        (MultiDiscrete([2, 3]), [np.array([1, 2])], False),  # left to `contains`
    ],
)
def test_only_what_is_inside_is_surely_inside(space: gym.Space, values: list, sure: bool):
    assert _surely_inside(space, values) is sure
    if sure:
        assert all(space.contains(value) for value in values)
