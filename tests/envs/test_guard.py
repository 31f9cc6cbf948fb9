"""The guard: what an environment does wrong is said with its id, seed and step; all else passes unchanged."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Text, Tuple

from gato_agent.envs.errors import EnvironmentFault
from gato_agent.envs.guard import Guard
from tests.testing_env import TestingEnv

INF = float("inf")
PAIR = Box(-INF, INF, (2,), np.float32)
NESTED = Dict(deep=Tuple((Box(-INF, INF, (2, 3), np.float64), Discrete(3))), text=Text(5))


def guarded(**functions: Any) -> Guard:
    env = Guard(TestingEnv(**functions), "Testing-v0")
    env.reset(seed=3)
    return env


def returning(space: Space[Any], observation: Any) -> Guard:
    """An environment whose first observation is sound and whose second is this one."""
    space.seed(0)
    return guarded(
        observation_space=space,
        reset=lambda env, seed, options: (space.sample(), {}),
        step=lambda env, action: (observation, 0.0, False, False, {}),
    )


def fault(call: Callable[[], Any]) -> str:
    with pytest.raises(EnvironmentFault) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_sound_passes_unchanged() -> None:
    observation, info = np.array([3.0, 4.0], np.float32), {"a": 1}
    env = guarded(observation_space=PAIR, step=lambda env, action: (observation, 2, False, True, info))
    result = env.step(0)
    np.testing.assert_array_equal(result[0], observation)
    assert result[4] is info
    assert result[1:4] == (2, False, True)


def test_an_exception_names_environment_step_and_seed() -> None:
    def step(env: TestingEnv, action: Any) -> Any:
        if env.t == 3:
            raise ValueError("bad\n  servo")
        return env.observe(), 0.0, False, False, {}

    env = guarded(step=step)
    env.step(0), env.step(0)
    assert fault(lambda: env.step(0)) == "Testing-v0: step 2 of seed 3 raised ValueError: bad servo"
    env.reset(seed=8)
    env.step(0), env.step(0)
    assert fault(lambda: env.step(0)) == "Testing-v0: step 2 of seed 8 raised ValueError: bad servo"


def test_an_exception_keeps_its_cause_and_may_have_no_message() -> None:
    def step(env: TestingEnv, action: Any) -> Any:
        raise AssertionError

    with pytest.raises(EnvironmentFault, match=r"^Testing-v0: step 0 of seed 3 raised AssertionError$") as caught:
        guarded(step=step).step(0)
    assert isinstance(caught.value.__cause__, AssertionError)


def test_exceptions_of_reset_and_render() -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no")

    env = Guard(TestingEnv(reset=fail, render=fail, render_mode="rgb_array"), "Testing-v0")
    assert fault(lambda: env.reset(seed=7)) == "Testing-v0: reset with seed 7 raised RuntimeError: no"
    assert fault(env.render) == "Testing-v0: rendering step 0 of seed 7 raised RuntimeError: no"


def test_interrupts_pass() -> None:
    def interrupted(env: TestingEnv, action: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(step=interrupted).step(0)


def test_without_a_render_mode_nothing_is_drawn() -> None:
    assert guarded().render() is None


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (PAIR, np.array([0, np.nan], np.float32), "an observation that is not finite: nan at index [1]"),
        (PAIR, np.array([-INF, 0], np.float32), "an observation that is not finite: -inf at index [0]"),
        (PAIR, [0.0, INF], "an observation that is not finite: inf at index [1]"),
        (Box(-1, 1, ()), np.float32("nan"), "an observation that is not finite: nan at index []"),
        (PAIR, np.zeros((2, 1), np.float32), "an observation of shape (2, 1) where its space says (2,)"),
        (PAIR, np.zeros(3, np.float32), "an observation of shape (3,) where its space says (2,)"),
        (PAIR, None, "an observation of shape () where its space says (2,)"),
        (PAIR, [[1.0], [1.0, 2.0]], "an observation that is not an array: list"),
        (PAIR, ["a", "b"], "an observation of <U1 where its space says float32"),
        (MultiDiscrete([3, 3]), np.array([0.5, 1.0]), "an observation of float64 where its space says int64"),
        (
            NESTED,
            {"deep": (np.array([[0.0, 0, 0], [0, 0, np.nan]]), 1), "text": ""},
            "an observation['deep'][0] that is not finite: nan at index [1, 2]",
        ),
        (NESTED, {"deep": (np.zeros((2, 3)), 1)}, "an observation without its entry 'text'"),
        (NESTED, {"deep": (np.zeros((2, 3)),), "text": ""}, "an observation['deep'] that is not a tuple of 2 entries"),
        (NESTED, np.zeros(2), "an observation without its entry 'deep'"),
    ],
)
def test_an_unsound_observation_is_a_fault(space: Space[Any], observation: Any, message: str) -> None:
    env = returning(space, observation)
    assert fault(lambda: env.step(0)) == f"Testing-v0: step 0 of seed 3 returned {message}"


def test_an_unsound_first_observation_is_a_fault() -> None:
    env = Guard(TestingEnv(reset=lambda env, seed, options: (np.array([0, np.nan]), {})), "Testing-v0")
    assert fault(lambda: env.reset(seed=1)).startswith("Testing-v0: reset with seed 1 returned an observation that is")


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (PAIR, np.array([3e38, -3e38], np.float32)),  # finite, though its square is not
        (PAIR, [1.0, 2.0]),
        (PAIR, np.array([1.0, 2.0])),  # float64 where the space says float32
        (Box(-1, 1, (2,)), np.array([5, -5], np.float32)),  # outside its bounds: clipped by the tokens
        (Box(0, 255, (16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)),
        (MultiDiscrete([3, 3]), np.array([2, 2], np.int32)),
        (NESTED, {"deep": [np.zeros((2, 3)), 1], "text": "x", "more": np.nan}),
    ],
)
def test_unusual_but_sound_observations_pass(space: Space[Any], observation: Any) -> None:
    np.testing.assert_equal(returning(space, observation).step(0)[0], observation)


@pytest.mark.parametrize("reward", [float("nan"), INF, None, "1", np.array([1.0, 2.0])])
def test_a_reward_that_is_no_finite_number_is_a_fault(reward: Any) -> None:
    env = guarded(step=lambda env, action: (env.observe(), reward, False, False, {}))
    assert fault(lambda: env.step(0)).startswith("Testing-v0: step 0 of seed 3 returned a reward that is not a finite")


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.array(1.0)])
def test_any_finite_number_is_a_reward(reward: Any) -> None:
    assert guarded(step=lambda env, action: (env.observe(), reward, False, False, {})).step(0)[1] is reward


def test_results_of_the_wrong_form_are_faults() -> None:
    old = guarded(step=lambda env, action: (env.observe(), 0.0, False, {}))
    assert "raised ValueError: not enough values to unpack" in fault(lambda: old.step(0))
    bare = Guard(TestingEnv(reset=lambda env, seed, options: env.observe()), "Testing-v0")
    assert fault(lambda: bare.reset(seed=0)).startswith(
        "Testing-v0: reset with seed 0 returned an observation of shape"
    )
    none = guarded(step=lambda env, action: (env.observe(), 0.0, False, False, None))
    assert fault(lambda: none.step(0)).endswith("returned an info that is not a dict: None")


def test_every_reset_gets_the_same_options() -> None:
    given: list[Any] = []

    def reset(env: TestingEnv, seed: int | None, options: Any) -> Any:
        given.append(options)
        return env.observe(), {}

    env = Guard(TestingEnv(reset=reset), "Testing-v0")
    for options in (None, {}, {"level": 2}):
        env.reset(seed=0, options=options)
    assert given == [None, None, {"level": 2}]


def test_it_counts_as_a_wrapper() -> None:
    env = Guard(gym.make("CartPole-v1"), "CartPole-v1")
    assert env.unwrapped.spec is not None
    assert env.get_wrapper_attr("length") == 0.5
