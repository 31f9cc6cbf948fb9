"""The value of an observation is the return that follows it on average."""

import gymnasium as gym
import numpy as np
import pytest

from gato_agent.improving.value import fit_value, number_paths
from gato_agent.rollouts.storage.episode import Episode


def episode(positions: np.ndarray, rewards: np.ndarray, seed: int = 0, **columns: np.ndarray) -> Episode:
    """Episode of one number, or more columns, an observation; its actions are of no account."""
    observations = columns or {"": positions.astype(np.float32)[:, None]}
    actions = {"": np.zeros(len(rewards), np.int64)}
    return Episode(observations, actions, None, rewards.astype(np.float64), True, False, None, seed)


def walks(count: int = 60, scale: float = 1.0, fall: float = 0.0) -> list[Episode]:
    """Walks from 0 to 1 in 20 steps, each with a reward of `scale`; one of them ends with a fall."""
    found = []
    for seed in range(count):
        positions = np.linspace(0, 1, 21) + np.random.default_rng(seed).normal(scale=0.01, size=21)
        rewards = np.full(20, scale)
        rewards[-1] -= fall if seed == 0 else 0.0
        found.append(episode(positions, rewards, seed))
    return found


def at(value, *positions: float) -> np.ndarray:
    return value({"": np.array(positions)[:, None]})


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_it_is_the_return_that_follows_at_any_scale(scale):
    value = fit_value(lambda: walks(scale=scale), [""])
    np.testing.assert_allclose(at(value, 0.1, 0.5, 0.9), np.array([18, 10, 2]) * scale, atol=1.2 * scale)


def test_a_single_fall_does_not_rule_it():
    calm, fallen = (fit_value(lambda fall=fall: walks(100, fall=fall), [""]) for fall in (0.0, 1e6))
    np.testing.assert_allclose(at(fallen, 0.1, 0.5, 0.9), at(calm, 0.1, 0.5, 0.9), atol=1.0)


def test_numbers_that_never_change_are_of_no_account():
    def episodes():
        return [episode(each.observations[""], each.rewards, one=each.observations[""], two=np.full((21, 2), 1e9))
                for each in walks()]  # fmt: skip

    value = fit_value(episodes, ["one", "two"])
    result = value({"one": np.array([[0.5]]), "two": np.full((1, 2), 1e9)})
    assert result == pytest.approx(10, abs=1.2)


def test_it_repeats():
    one, two = (fit_value(walks, [""]).coefficients for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_numbers_are_leaves_that_are_neither_text_nor_images():
    space = gym.spaces.Dict({
        "pose": gym.spaces.Box(-1, 1, (3,)), "stack": gym.spaces.Box(-1, 1, (4, 3)), "hand": gym.spaces.Discrete(3),
        "flags": gym.spaces.MultiBinary(2), "camera": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "gray": gym.spaces.Box(0, 255, (84, 84), np.uint8), "task": gym.spaces.Text(5),
    })  # fmt: skip
    assert number_paths(space) == ["flags", "hand", "pose", "stack"]
