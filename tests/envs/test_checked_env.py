"""CheckedEnv names the id, seed and step of a fault, and passes valid values unchanged."""

import signal
import threading
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any
from unittest.mock import MagicMock

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

from gato_agent.envs.checked_env import CheckedEnv
from gato_agent.envs.errors import EnvironmentFault
from gato_agent.envs.make import make
from gato_agent.envs.spaces.flatten import stack
from tests.helpers.testing_env import TestingEnv

INF = float("inf")
PAIR = Box(-INF, INF, (2,), np.float32)
NESTED = Dict(deep=Tuple((Box(-INF, INF, (2, 3), np.float64), Discrete(3))), text=Text(5))


def checked(**functions: Any) -> CheckedEnv:
    env = CheckedEnv(TestingEnv(**functions), "Testing-v0")
    env.reset(seed=3)
    return env


def returning(space: Space[Any], observation: Any) -> CheckedEnv:
    """Environment whose first observation is valid and whose second is `observation`."""
    space.seed(0)
    return checked(
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
    env = checked(observation_space=PAIR, step=lambda env, action: (observation, 2, False, True, info))
    result = env.step(0)
    np.testing.assert_array_equal(result[0], observation)
    assert result[4] is info
    assert result[1:4] == (2, False, True)


def test_an_exception_names_environment_step_and_seed() -> None:
    def step(env: TestingEnv, action: Any) -> Any:
        if env.t == 3:
            raise ValueError("bad\n  servo")
        return env.observe(), 0.0, False, False, {}

    env = checked(step=step)
    env.step(0), env.step(0)
    assert fault(lambda: env.step(0)) == "Testing-v0: step 2 of seed 3 raised ValueError: bad servo"
    env.reset(seed=8)
    env.step(0), env.step(0)
    assert fault(lambda: env.step(0)) == "Testing-v0: step 2 of seed 8 raised ValueError: bad servo"


def test_an_exception_keeps_its_cause_and_may_have_no_message() -> None:
    def step(env: TestingEnv, action: Any) -> Any:
        raise AssertionError

    with pytest.raises(EnvironmentFault, match=r"^Testing-v0: step 0 of seed 3 raised AssertionError$") as caught:
        checked(step=step).step(0)
    assert isinstance(caught.value.__cause__, AssertionError)


def test_exceptions_of_reset_and_render() -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no")

    env = CheckedEnv(TestingEnv(reset=fail, render=fail, render_mode="rgb_array"), "Testing-v0")
    assert fault(lambda: env.reset(seed=7)) == "Testing-v0: reset with seed 7 raised RuntimeError: no"
    said = fault(env.render)
    assert said == "Testing-v0: rendering step 0 of seed 7 raised RuntimeError: no: play it with --render none"


def test_interrupts_pass() -> None:
    def interrupted(env: TestingEnv, action: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checked(step=interrupted).step(0)


def test_without_a_render_mode_nothing_is_drawn() -> None:
    assert checked().render() is None


OUTSIDE = "Testing-v0: step 0 of seed 3 returned an observation that is not in its space: "


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (PAIR, np.array([0, np.nan], np.float32), "element [1] is nan, not a finite number"),
        (PAIR, np.array([-INF, 0], np.float32), "element [0] is -inf, not a finite number"),
        (PAIR, [0.0, INF], "element [1] is inf, not a finite number"),
        (PAIR, np.array([0.0, 1e39]), "element [1] is inf, not a finite number"),  # more than float32 can hold
        (Box(-1, 1, ()), np.float32("nan"), "value is nan, not a finite number"),
        (PAIR, np.zeros((2, 1), np.float32), "shape (2, 1) of float32 instead of (2,) of float32"),
        (PAIR, np.zeros(3, np.float32), "shape (3,) of float32 instead of (2,) of float32"),
        (PAIR, np.ma.array([0, 1], np.float32, mask=[0, 1]), "a masked array with masked elements, which have no val"),
        (NESTED, {"deep": (np.ma.array(np.zeros((2, 3)), mask=True), 1), "text": ""}, "'deep/0': a masked array"),
        (PAIR, None, "shape () of object instead of (2,) of float32"),
        (PAIR, [[1.0], [1.0, 2.0]], "values have differing shapes"),
        (PAIR, ["a", "b"], "shape (2,) of <U1 instead of (2,) of float32"),
        (MultiDiscrete([3, 3]), np.array([0.5, 1.0]), "element [0] is 0.5, which is no int64"),
        (MultiDiscrete([3, 3]), np.array([0, 3]), "element [1] is 3, beyond its bounds 0 to 2"),
        (MultiBinary(2), np.array([0, 2], np.int8), "element [1] is 2, beyond its bounds 0 to 1"),
        (Discrete(8, start=2), 10, "value is 10, beyond its bounds 2 to 9"),
        (Discrete(8), "3", "shape () of <U1 instead of () of int64"),
        (Discrete(8), np.array([3]), "shape (1,) of int64 instead of () of int64"),
        (Box(0, 8, (3,), np.uint8), np.array([1, 2, 10], np.uint8), "element [2] is 10, beyond its bounds 0 to 8"),
        (Box(0, 8, (3,), np.uint8), np.array([1, 2, 300]), "element [2] is 300, which is no uint8"),
        (Text(5), b"bytes", "bytes instead of str"),
        (Text(5), "longer", "a text of 6 characters, beyond its bound of 5: 'longer'"),
        (Text(5), "\ud800", "'\\ud800' has characters that are not in Unicode"),
        (
            NESTED,
            {"deep": (np.array([[0.0, 0, 0], [0, 0, np.nan]]), 1), "text": ""},
            "'deep/0': element [1, 2] is nan, not a finite number",
        ),
        (NESTED, {"deep": (np.zeros((2, 3)), 1)}, "without the entries ['deep', 'text']"),
        (NESTED, {"deep": (np.zeros((2, 3)),), "text": ""}, "instead of a tuple of 2 entries"),
        (NESTED, np.zeros(2), "array([0., 0.]) (ndarray of shape (2,)) without the entries ['deep', 'text']"),
    ],
)
def test_an_unsound_observation_is_a_fault(space: Space[Any], observation: Any, message: str) -> None:
    env = returning(space, observation)
    said = fault(lambda: env.step(0))
    assert said.startswith(OUTSIDE) and message in said
    assert ("gymnasium.wrappers.TransformObservation" in said) is ("not a finite number" not in said)


@pytest.mark.parametrize(
    ("space", "observation", "another_space"),
    [
        (PAIR, np.array([0, np.nan], np.float32), False),
        (PAIR, torch.zeros(2, requires_grad=True), False),
        (NESTED, {"deep": (np.full((2, 3), INF), 1), "text": ""}, False),
        (PAIR, np.zeros(3, np.float32), True),
        (Text(5), "not a finite number", True),  # the words of another message
        (Text(5), "cannot be read as an array", True),
    ],
)
def test_another_space_is_suggested_where_one_would_have_the_value(
    space: Space[Any], observation: Any, another_space: bool
) -> None:
    env = returning(space, observation)
    assert ("declare the space that observations have" in fault(lambda: env.step(0))) is another_space


def test_an_unsound_first_observation_is_a_fault() -> None:
    env = CheckedEnv(TestingEnv(reset=lambda env, seed, options: (np.array([0, np.nan]), {})), "Testing-v0")
    assert fault(lambda: env.reset(seed=1)).startswith(
        "Testing-v0: reset with seed 1 returned an observation that is not in its space: "
    )


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (PAIR, np.array([3e38, -3e38], np.float32)),  # finite, though its square is not
        (PAIR, [1.0, 2.0]),
        (PAIR, [1, 2]),
        (PAIR, np.ma.array([1.0, 2.0], np.float32)),  # nothing in it is masked
        (PAIR, np.array([1.0, 2.0])),  # float64 where the space says float32
        (Box(-1, 1, (2,)), np.array([5, -5], np.float32)),  # outside its bounds: clipped by the tokens
        (Box(0, 2000, (2,), np.int32), np.array([3000, -1])),  # likewise, as a magnitude
        (Box(0, 255, (16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)),
        (Box(0, 255, (3,), np.uint8), np.array([1.0, 2.0, 255.0], np.float32)),
        (MultiDiscrete([3, 3]), np.array([2, 2], np.int32)),
        (MultiBinary(3), np.array([1.0, 0.0, 1.0])),
        (Discrete(5), 2.0),
        (Text(5), "\u00e9 !"),  # characters beyond the charset: a text tokenizer has pieces for all
        (NESTED, {"deep": [np.zeros((2, 3)), 1], "text": "x", "more": np.nan}),
    ],
)
def test_unusual_but_sound_observations_are_cast(space: Space[Any], observation: Any) -> None:
    held, wanted = returning(space, observation).step(0)[0], stack(space, [observation])
    for path, column in stack(space, [held]).items():
        assert column.tolist() == wanted[path].tolist()
    if isinstance(space, Box | MultiDiscrete | MultiBinary):
        assert (held.dtype, held.shape) == (space.dtype, space.shape)


BEYOND = "Testing-v0: step 0 of seed 3 returned a reward "


@pytest.mark.parametrize("reward", [float("nan"), INF, -INF, 10**400, np.float32(INF), 1e200, np.array([INF])])
def test_a_reward_that_is_not_finite_is_a_fault(reward: Any) -> None:
    env = checked(step=lambda env, action: (env.observe(), reward, False, False, {}))
    assert fault(lambda: env.step(0)).startswith(f"{BEYOND}that is not a finite number: ")


@pytest.mark.parametrize("reward", [None, "1", np.array([1.0, 2.0]), 1j, [], {"a": 1.0}, np.array([None])])
def test_a_reward_that_is_not_one_number_is_a_fault(reward: Any) -> None:
    env = checked(step=lambda env, action: (env.observe(), reward, False, False, {}))
    assert fault(lambda: env.step(0)).startswith(f"{BEYOND}that is not one number: ")


def test_a_return_beyond_all_floats_is_a_fault() -> None:
    env = checked(step=lambda env, action: (env.observe(), 6e99, False, False, {}))
    env.step(0)
    said = fault(lambda: env.step(0))
    assert said == "Testing-v0: step 1 of seed 3 returned a reward of 6e+99, with which the return is beyond 1e+100"
    env.reset(seed=4)
    env.step(0)


@pytest.mark.parametrize(
    "reward",
    [
        1, True, np.float32(1), np.array(1.0), np.array([1]), np.array([[1.0]]), [1.0], np.longdouble(1), np.float16(1),
        Decimal(1), Fraction(2, 2), np.array([Decimal(1)]),
    ],
)  # fmt: skip
def test_any_finite_number_is_a_reward(reward: Any) -> None:
    found = checked(step=lambda env, action: (env.observe(), reward, False, False, {})).step(0)[1]
    assert (type(found), found) == (float, 1.0)


@pytest.mark.parametrize("end", [True, 1, np.True_, np.array(True), np.array([1]), [True]])
def test_any_truth_value_is_an_end(end: Any) -> None:
    env = checked(step=lambda env, action: (env.observe(), 0.0, end, None, {}))
    assert env.step(0)[2:4] == (True, False)


@pytest.mark.parametrize("end", [np.array([True, False]), "yes", {"agent": True}, float("nan"), []])
def test_an_end_that_is_not_one_truth_value_is_a_fault(end: Any) -> None:
    env = checked(step=lambda env, action: (env.observe(), 0.0, False, end, {}))
    said = fault(lambda: env.step(0))
    assert said.startswith("Testing-v0: step 0 of seed 3 returned truncated that is not one truth value: ")


def test_an_info_that_is_not_a_dict_is_a_fault() -> None:
    none = checked(step=lambda env, action: (env.observe(), 0.0, False, False, None))
    assert fault(lambda: none.step(0)).endswith("returned an info that is not a dict: None")
    frozen = CheckedEnv(TestingEnv(reset=lambda env, seed, _: (env.observe(), MappingProxyType({}))), "Testing-v0")
    assert "returned an info that is not a dict: mappingproxy({}); Gymnasium's API" in fault(
        lambda: frozen.reset(seed=1)
    )


RESET = r"Gymnasium's API, other than that of gym 0.21: reset(self, *, seed=None, options=None) returns (observation, "
STEP = "gym 0.21: step(self, action) returns (observation, reward, terminated, truncated, info)"


@pytest.mark.parametrize("observation", [np.zeros(3), np.zeros(2), (np.zeros(2), 1.0), {"a": 1, "b": 2}, None, 3])
def test_a_reset_of_the_old_api_is_named(observation: Any) -> None:
    bare = CheckedEnv(TestingEnv(reset=lambda env, seed, options: observation), "Testing-v0")
    said = fault(lambda: bare.reset(seed=0))
    assert said.startswith("Testing-v0: reset with seed 0 returned ") and RESET in said


@pytest.mark.parametrize("result", [(np.zeros(2), 0.0, False, {}), np.zeros(2), None, (1, 2, 3, 4, 5, 6)])
def test_a_step_of_the_old_api_is_named(result: Any) -> None:
    old = checked(step=lambda env, action: result)
    said = fault(lambda: old.step(0))
    assert said.startswith("Testing-v0: step 0 of seed 3 returned ") and STEP in said


class Seedless(TestingEnv):
    def reset(self) -> Any:  # type: ignore[override]
        return np.zeros(2), {}


@pytest.mark.parametrize("wrapper", [lambda env: env, gym.wrappers.OrderEnforcing])
def test_a_reset_without_a_seed_and_wrappers_that_unpack_are_named(wrapper: Callable[[Any], Any]) -> None:
    said = fault(lambda: CheckedEnv(wrapper(Seedless()), "Testing-v0").reset(seed=0))
    assert "raised TypeError" in said and RESET in said
    limited = CheckedEnv(gym.wrappers.TimeLimit(TestingEnv(step=lambda env, action: (1, 2, 3, {})), 5), "Testing-v0")
    limited.reset(seed=0)
    said = fault(lambda: limited.step(0))
    assert "not enough values to unpack" in said and STEP in said


def test_an_error_inside_the_environment_is_not_blamed_on_its_api() -> None:
    def fail(*_: Any) -> Any:
        _, _ = (1, 2, 3)  # type: ignore[misc]

    assert "gym 0.21" not in fault(lambda: checked(step=fail).step(0))


@pytest.mark.parametrize(("action", "executed"), [(1, 1), (np.int64(1), 1), (1.0, 1), (np.array(1), 1), (True, 1)])
def test_actions_are_cast(action: Any, executed: Any) -> None:
    taken: list[Any] = []
    env = checked(step=lambda env, action: (taken.append(action), (env.observe(), 0.0, False, False, {}))[1])
    env.step(action)
    assert taken == [executed]


def test_a_floating_action_is_cast_to_the_dtype_of_its_space() -> None:
    taken: list[Any] = []
    box = Box(-1, 1, (2,), np.float16)
    step = lambda env, action: (taken.append(action), (env.observe(), 0.0, False, False, {}))[1]  # noqa: E731
    checked(action_space=box, step=step).step(np.array([0.1, 1.0 + 1e-9]))
    assert taken[0].dtype == np.float16 and taken[0].tolist() == np.array([0.1, 1.0], np.float16).tolist()


@pytest.mark.parametrize("action", [2, -1, 0.5, None, "0", np.array([0])])
def test_an_action_that_is_not_in_its_space_is_a_fault(action: Any) -> None:
    env = checked(step=lambda env, action: pytest.fail("it reached the environment"))
    said = fault(lambda: env.step(action))
    assert said.startswith("Testing-v0: step 0 of seed 3 has the action ") and "which is not in Discrete(2): " in said


@pytest.mark.parametrize(
    ("space", "action", "remedy"),
    [
        (Box(-1, 1, (2,)), np.array([0, 3.0]), "; clip it"),
        (Box(0, 8, (2,), np.int8), np.array([0, 9]), "; clip it"),
        (Box(0, 8, (2,), np.int8), np.array([0, 0.5]), "; round it"),
        (Discrete(3), 0.5, "; round it"),
        (Box(-1, 1, (2,)), np.array([0, np.nan]), "not a finite number"),
        (Discrete(3, start=5), 0, "beyond its bounds 5 to 7"),
        (Text(4), "longer", "'longer'"),
        (Dict(a=Discrete(2), b=Box(-1, 1, (1,))), {"a": 1, "b": [2.0]}, "; clip it"),
    ],
)
def test_an_action_is_told_to_be_clipped_or_rounded_only_if_that_makes_it_valid(
    space: Space[Any], action: Any, remedy: str
) -> None:
    assert fault(lambda: checked(action_space=space).step(action)).endswith(remedy)


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), BaseException("gone"), StopIteration()])
def test_whatever_an_environment_raises_is_a_fault(error: BaseException) -> None:
    def fail(*_: Any) -> Any:
        raise error

    said = fault(lambda: checked(step=fail).step(0))
    assert said.startswith(f"Testing-v0: step 0 of seed 3 raised {type(error).__name__}")
    assert "reset with seed 7 raised" in fault(lambda: CheckedEnv(TestingEnv(reset=fail), "Testing-v0").reset(seed=7))


def test_a_close_that_raises_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for error in (AttributeError("no 'finish'"), SystemExit(3)):
        env = checked()
        env.env.close = MagicMock(side_effect=error)  # type: ignore[method-assign]
        env.close()
    assert caplog.messages == [
        "Testing-v0: close() raised AttributeError: no 'finish'; the episodes played are unaffected",
        "Testing-v0: close() raised SystemExit: 3; the episodes played are unaffected",
    ]


def test_a_close_that_hangs_is_left_alone(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gato_agent.envs.checked_env.CLOSE_SECONDS", 0.01)
    env = checked()
    env.env.close = lambda: threading.Event().wait()  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGALRM)
    env.close()
    assert "close() raised TimeoutError: it did not end within 0.01 s" in caplog.text
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_episode_without_a_time_limit_is_warned_of_and_ended(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gato_agent.envs.checked_env.LONG", 3)
    monkeypatch.setattr("gato_agent.envs.checked_env.ENDLESS", 5)
    arguments = {"length": 6}
    with closing(make("tests.helpers.testing_env:Testing-v0", env_kwargs=arguments)) as env:
        for _ in range(2):
            env.reset(seed=0)
            for _ in range(4):
                env.step(0)
        assert caplog.text.count("step 3 of seed 0 is not the last after 3 steps, and the environment has no time") == 1
        said = fault(lambda: env.step(0))
    assert said.endswith("""no time limit: --env-kwargs '{"max_episode_steps": 1000}' gives it one""")
    with closing(make("tests.helpers.testing_env:Testing-v0", env_kwargs=arguments | {"max_episode_steps": 6})) as env:
        env.reset(seed=0)
        assert [env.step(0)[2:4] for _ in range(6)][-1] == (True, True)


PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def drawing(*frames: Any) -> CheckedEnv:
    remaining = iter(frames)
    env = CheckedEnv(TestingEnv(render=lambda env: next(remaining), render_mode="rgb_array"), "Testing-v0")
    env.reset(seed=7)
    return env


@pytest.mark.parametrize(
    ("frame", "picture"),
    [
        (PICTURE, PICTURE),
        (PICTURE.tolist(), PICTURE),
        (PICTURE.astype(np.int64), PICTURE),
        (np.concatenate([PICTURE, PICTURE[..., :1]], 2), PICTURE),
        (PICTURE[..., 0], PICTURE[..., [0, 0, 0]]),
        (PICTURE[..., :1], PICTURE[..., [0, 0, 0]]),
    ],
)
def test_pictures_are_cast(frame: Any, picture: np.ndarray) -> None:
    drawn = drawing(frame).render()
    assert drawn.dtype == np.uint8 and np.array_equal(drawn, picture)
    assert drawn is not frame


@pytest.mark.parametrize(
    "frame",
    [None, PICTURE / 255, PICTURE.astype(np.float32), "picture", [[1], [2, 3]], PICTURE.astype(np.int16) - 1,
     PICTURE[..., :2], PICTURE[:0], [PICTURE, PICTURE], 3],
)  # fmt: skip
def test_what_is_no_picture_is_a_fault(frame: Any) -> None:
    said = fault(drawing(frame).render)
    assert said.startswith("Testing-v0: rendering step 0 of seed 7 returned ") and said.endswith("--render none")


def test_pictures_of_another_size_are_a_fault() -> None:
    env = drawing(PICTURE, PICTURE[:, 1:])
    env.render()
    said = fault(env.render)
    assert said.startswith("Testing-v0: rendering step 0 of seed 7 changed the size of images from 4x4 to 3x4")


def test_every_reset_gets_the_same_options() -> None:
    given: list[Any] = []

    def reset(env: TestingEnv, seed: int | None, options: Any) -> Any:
        given.append(options)
        return env.observe(), {}

    env = CheckedEnv(TestingEnv(reset=reset), "Testing-v0")
    for options in (None, {}, {"level": 2}):
        env.reset(seed=0, options=options)
    assert given == [None, None, {"level": 2}]


def test_it_counts_as_a_wrapper() -> None:
    env = CheckedEnv(gym.make("CartPole-v1"), "CartPole-v1")
    assert env.unwrapped.spec is not None
    assert env.get_wrapper_attr("length") == 0.5
