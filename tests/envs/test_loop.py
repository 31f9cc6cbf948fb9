"""The loop: the exact order of its calls, one seed per episode, and every kind of space."""

import re
from typing import Any
from unittest.mock import MagicMock

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.loop import Step, steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.random_actor import RandomActor
from gato_agent.envs.spaces.step_results import success_of
from gato_agent.envs.vector import SeparateInfos
from tests.helpers.random_spaces import ONE_OF_EACH
from tests.helpers.testing_env import TestingEnv

LENGTHS = {10: 3, 11: 2, 12: 2, 13: 1}  # steps of the episode with this seed


class Taped:
    """Actor that records its calls and acts by the observation."""

    def __init__(self, tape: list[Any]) -> None:
        self.tape = tape

    def reset(self, num_envs: int) -> None:
        self.tape.append(("actor.reset", num_envs))

    def act(self, observation: Any, start: Any) -> Any:
        self.tape.append(("act", observation.tolist(), start.tolist()))
        return observation[:, 1].astype(np.int64) % 2  # parity of t


def taped_env(env_index: int, tape: list[Any]) -> TestingEnv:
    def reset(env: TestingEnv, seed: int | None, options: Any) -> Any:
        tape.append((f"reset {env_index}", seed))
        return env.observe(), {}

    def step(env: TestingEnv, action: Any) -> Any:
        tape.append((f"step {env_index}", int(action)))
        done = env.t >= LENGTHS[env.seed]
        return env.observe(), float(env.t), done and env.seed != 11, done and env.seed == 11, {"twice": 2 * env.t}

    return TestingEnv(reset=reset, step=step)


def vector(*envs: gym.Env[Any, Any]) -> SeparateInfos:
    return SeparateInfos([lambda env=env: env for env in envs])  # type: ignore[misc]


def play(seeds: list[int], num_envs: int = 1) -> tuple[list[Step], list[Any]]:
    tape: list[Any] = []
    envs = vector(*(taped_env(env_index, tape) for env_index in range(num_envs)))
    return list(steps(Taped(tape), envs, seeds)), tape


def test_two_environments_call_in_this_order() -> None:
    stream, tape = play([10, 11, 12, 13], num_envs=2)
    assert tape == [
        ("actor.reset", 2),
        ("reset 0", 10), ("reset 1", 11),
        ("act", [[10, 0], [11, 0]], [True, True]), ("step 0", 0), ("step 1", 0),
        ("act", [[10, 1], [11, 1]], [False, False]), ("step 0", 1), ("step 1", 1),
        ("reset 1", 12),
        ("act", [[10, 2], [12, 0]], [False, True]), ("step 0", 0), ("step 1", 0),
        ("reset 0", 13),
        ("act", [[13, 0], [12, 1]], [True, False]), ("step 0", 0), ("step 1", 1),
    ]  # fmt: skip
    assert [(step.env_index, step.seed, step.t) for step in stream] == [
        (0, 10, 0), (1, 11, 0), (0, 10, 1), (1, 11, 1), (0, 10, 2), (1, 12, 0), (0, 13, 0), (1, 12, 1),
    ]  # fmt: skip


def test_a_step_holds_what_happened() -> None:
    first, last = play([11])[0]
    assert (first.obs.tolist(), first.action, first.reward, first.next_obs.tolist()) == ([11, 0], 0, 1.0, [11, 1])
    assert (first.terminated, first.truncated, first.done, first.info) == (False, False, False, {"twice": 2})
    assert (last.obs.tolist(), last.action, last.reward, last.next_obs.tolist()) == ([11, 1], 1, 2.0, [11, 2])
    assert (last.terminated, last.truncated, last.done, last.info) == (False, True, True, {"twice": 4})


def test_the_last_observation_is_the_final_one_and_not_that_of_the_reset() -> None:
    stream, _ = play([10, 11, 12, 13], num_envs=2)
    ends = {step.seed: step.next_obs.tolist() for step in stream if step.done}
    assert ends == {seed: [seed, length] for seed, length in LENGTHS.items()}


def test_every_observation_follows_from_the_one_before() -> None:
    stream, _ = play([10, 11, 12, 13] * 3, num_envs=3)
    before: dict[int, Step] = {}
    for step in stream:
        if step.t:
            assert step.obs.tolist() == before[step.env_index].next_obs.tolist()
        before[step.env_index] = step


@pytest.mark.parametrize("num_envs", [1, 2, 3, 5, 8])
def test_the_number_of_environments_changes_nothing_but_the_order(num_envs: int) -> None:
    def key(step: Step) -> Any:
        return step.seed, step.t, step.obs.tolist(), int(step.action), step.reward, step.terminated, step.truncated

    seeds = [13, 10, 12, 11]
    assert sorted(map(key, play(seeds, num_envs)[0])) == sorted(map(key, play(seeds)[0]))


def test_spare_environments_play_unseen() -> None:
    stream, tape = play([10], num_envs=3)
    assert [(step.env_index, step.t) for step in stream] == [(0, 0), (0, 1), (0, 2)]
    assert tape[1:4] == [("reset 0", 10), ("reset 1", 10), ("reset 2", 10)]


def test_no_seeds_no_steps() -> None:
    assert play([]) == ([], [])


def test_seeds_are_taken_one_at_a_time() -> None:
    seeds = iter([10, 11, 12, 13])
    next(steps(Taped([]), vector(taped_env(0, [])), seeds))
    assert list(seeds) == [11, 12, 13]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_environments_that_reset_themselves_or_batch_infos_are_refused(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([TestingEnv, TestingEnv], autoreset_mode=mode)
    with pytest.raises(ValueError, match="make them with make_vector"):
        next(steps(Taped([]), envs, [0]))


@pytest.mark.parametrize("num_envs", [1, 2, 4])
@pytest.mark.parametrize("error", [ValueError("no way\nout"), SystemExit(0), GeneratorExit(), GatoError("lost")])
def test_what_an_actor_raises_is_named_with_environment_seed_and_step(num_envs: int, error: BaseException) -> None:
    class Failing(Taped):
        def act(self, observation: Any, start: Any) -> Any:
            if observation[0, 1] == 1:
                raise error
            return super().act(observation, start)

    where = "step 1 of seed 10" if num_envs == 1 else "step 1 of seed 10 and step 1 of seed 11"
    where += " and 1 more" if num_envs == 4 else ""
    said = "lost" if isinstance(error, GatoError) else f"choosing an action raised {one_line(error)}"
    envs = vector(*(taped_env(env_index, []) for env_index in range(num_envs)))
    with pytest.raises(GatoError, match=re.escape(f"TestingEnv: {where}: {said}")) as caught:
        list(steps(Failing([]), envs, [10, 11, 12]))
    assert caught.value.__cause__ is error and "\n" not in str(caught.value)


def test_an_actor_that_cannot_begin_or_answers_for_others_is_named() -> None:
    class Broken(Taped):
        def reset(self, num_envs: int) -> None:
            raise OSError("no model")

    class Short(Taped):
        def act(self, observation: Any, start: Any) -> Any:
            return np.zeros(len(observation) - 1, np.int64)

    for num_envs in (1, 2):
        envs = make_vector("tests.helpers.testing_env:Testing-v0", num_envs)
        with pytest.raises(GatoError, match=r"^Testing-v0: step 0 of seed 3.*: choosing an action raised OSError: no"):
            list(steps(Broken([]), envs, [3, 4]))
        with pytest.raises(
            GatoError,
            match=r"^Testing-v0: step 0 of seed 3.*: choosing an action raised (ValueError: 1 values for 2|Ind)",
        ):
            list(steps(Short([]), envs, [3, 4]))


def test_an_interrupt_stays_one_and_a_usage_error_too() -> None:
    for error in (KeyboardInterrupt(), UsageError("call reset")):
        actor = Taped([])
        actor.act = MagicMock(side_effect=error)  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            list(steps(actor, vector(TestingEnv()), [0]))


def random_info(rng: np.random.Generator, depth: int = 2) -> Any:
    """Infos with values of another type and shape at each step."""
    kinds: list[Any] = [
        None, True, 3, "text", b"bytes", object(), {1, 2}, lambda: None, float("nan"),
        np.arange(int(rng.integers(6))), np.zeros(tuple(rng.integers(0, 3, int(rng.integers(3))))), [1, [2, 3]],
        np.array(["a", None], object), Opaque(),
    ]  # fmt: skip
    if depth and rng.random() < 0.5:
        keys = rng.choice(["a", "_a", "success", "episode", "infos", "final_obs", "", "__"], int(rng.integers(4)))
        return {key: random_info(rng, depth - 1) for key in [*keys.tolist(), *([3] if rng.random() < 0.2 else [])]}
    return kinds[rng.integers(len(kinds))]


class Opaque:
    """Object that raises in every operation."""

    def fail(self, *_: Any) -> Any:
        raise RuntimeError("not to be looked at")

    __eq__ = __bool__ = __len__ = __getitem__ = __array__ = __iter__ = fail
    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("num_envs", [1, 2, 3])
@given(seed=st.integers(0, 2**32))
def test_infos_are_the_environments_own(num_envs: int, seed: int) -> None:
    rng, made = np.random.default_rng(seed), {}

    def info(env: TestingEnv) -> dict[Any, Any]:
        return made.setdefault((env.seed, env.t), {"own": random_info(rng), "success": random_info(rng)})

    envs = [
        TestingEnv(
            reset=lambda env, seed, options: (env.observe(), info(env)),
            step=lambda env, action: (env.observe(), 0, env.t >= 2, False, info(env)),
        )
        for _ in range(num_envs)
    ]
    stream = list(steps(Taped([]), vector(*envs), [1, 2, 3, 4]))
    assert len(stream) == 8
    for step in stream:
        own = made[step.seed, step.t + 1]
        assert step.info is not own and step.info.keys() == own.keys() and same(step.info, own)
        success_of(step.info)


def same(one: Any, other: Any) -> bool:
    """True if two values are equal; objects that cannot be compared must be identical."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and repr(one) == repr(other)
    return one is other or repr(one) == repr(other)


@pytest.mark.parametrize("space", ONE_OF_EACH, ids=str)
@pytest.mark.parametrize("num_envs", [1, 2, 3])
def test_every_space_comes_through(space: Space[Any], num_envs: int) -> None:
    envs = make_vector("tests.helpers.testing_env:Identity-v0", num_envs, env_kwargs={"space": space, "length": 4})
    stream = list(steps(Echo(), envs, range(5)))
    assert len(stream) == 5 * 4
    for step in stream:
        assert space.contains(step.obs)
        assert space.contains(step.next_obs)
        assert step.reward == 1.0


class Echo:
    """Actor that returns the observation as the action, as the Identity environment rewards."""

    def reset(self, num_envs: int) -> None: ...

    def act(self, observation: Any, start: Any) -> Any:
        return observation


@pytest.mark.parametrize("space", ONE_OF_EACH, ids=str)
def test_random_actions_lie_in_the_space_and_repeat(space: Space[Any]) -> None:
    def actions(seed: int) -> list[Any]:
        envs = make_vector("tests.helpers.testing_env:Identity-v0", 2, env_kwargs={"space": space, "length": 4})
        return [step.action for step in steps(RandomActor(space, seed), envs, range(3))]

    assert all(space.contains(action) for action in actions(0))
    assert repr(actions(0)) == repr(actions(0)) != repr(actions(1))
