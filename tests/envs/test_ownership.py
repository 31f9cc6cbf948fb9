"""Writes into an array do not change other owners' copies."""

from collections import namedtuple
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from hypothesis import given
from hypothesis import strategies as st

from gato_agent.envs.checked_env import CheckedEnv
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make
from gato_agent.envs.ownership import INFO_DEPTH, owned
from gato_agent.envs.vector import SeparateInfos
from tests.helpers.random_spaces import random_space
from tests.helpers.scribblers import ScribblingActor, ScribblingEnv, scribble, stacked
from tests.helpers.testing_env import TestingEnv

SPACES: list[Space[Any]] = [
    Discrete(4, start=-2),
    MultiDiscrete(np.array([[2, 3], [4, 5]])),
    MultiBinary(3),
    Box(-1, 1, (), np.float32),
    Box(0, 255, (16, 16, 3), np.uint8),
    Text(5),
    Dict(b=Discrete(3), a=Dict(text=Text(4), x=Box(-1, 1, (2,)))),
    Tuple((Discrete(2), Dict(z=Tuple((MultiBinary(2), Text(3)))), Box(-np.inf, np.inf, (1,)))),
]


def check(
    observation: Space[Any], action: Space[Any], num_envs: int = 1, *,
    checked: bool = False, copy: bool = True, spoil: bool = True, share: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Play with scribblers everywhere, and compare the values that each made with those that others received.

    Args:
        observation: space of the environments' observations.
        action: space of the actor's actions.
        num_envs: number of environments.
        checked: true to wrap each of them in CheckedEnv.
        copy: true if the vector environment copies its own buffer.
        spoil: true if the receiver spoils steps as they come, false if it holds them to the end.
        share: a buffer that all environments return.
    """
    envs = [ScribblingEnv(observation, action, share) for _ in range(num_envs)]
    actor = ScribblingActor(action)
    made = [(lambda env=env: CheckedEnv(env, "Scribbling-v0") if checked else env) for env in envs]
    vector = SeparateInfos(made, copy=copy)
    kept, num_envs_of = [], {}
    for step in steps(actor, vector, range(2 * num_envs + 1)):
        kept.append(deepcopy(step) if spoil else step)
        num_envs_of[step.seed] = step.env_index
        if spoil:
            scribble([step.obs, step.action, step.next_obs, step.info])
    assert len(kept) == (2 * num_envs + 1) * ScribblingEnv.length
    for step in kept:
        env = envs[num_envs_of[step.seed]]
        np.testing.assert_equal(step.obs, env.seen[step.seed][step.t])
        np.testing.assert_equal(step.next_obs, env.seen[step.seed][step.t + 1])
        np.testing.assert_equal(step.action, env.actions[step.seed][step.t])
        np.testing.assert_equal(step.info, env.infos[step.seed][step.t])
    assert (
        actor.starts == [[start] * num_envs for start in (True, False, False, False)] * 3
    )  # each environment plays three
    if num_envs == 1:  # with more, environments that have no seed left are played unseen
        for seen, chosen, step in zip(actor.seen, actor.chosen, kept, strict=True):
            np.testing.assert_equal(seen, stacked(observation, [step.obs]))
            np.testing.assert_equal(chosen, stacked(action, [step.action]))


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("spoil", [False, True])
@pytest.mark.parametrize("num_envs", [1, 2, 3])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_scribblers_in_every_place_change_nothing(space: Space[Any], num_envs: int, spoil: bool, checked: bool) -> None:
    for observation, action in ((space, SPACES[-1]), (SPACES[-1], space)):
        check(observation, action, num_envs, checked=checked, spoil=spoil)
        check(observation, action, num_envs, checked=checked, spoil=spoil, copy=False)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_checked_environments_may_share_one_buffer(space: Space[Any]) -> None:
    check(space, Discrete(2), 3, checked=True, share={})


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_scribblers_change_nothing_in_any_spaces(seed: int, checked: bool, spoil: bool) -> None:
    rng = np.random.default_rng(seed)
    check(random_space(rng), random_space(rng), checked=checked, spoil=spoil)


def test_a_copy_is_of_the_same_form_and_shares_nothing() -> None:
    pair = namedtuple("pair", "x y")
    value = {"a": np.arange(3), "b": [np.zeros(2), ("text", np.ones(()))], "c": pair(1, np.ones(1)), "d": np.int64(3)}
    copy = owned(value)
    np.testing.assert_equal(copy, value)
    assert type(copy["c"]) is pair
    scribble(value)
    np.testing.assert_equal(copy["b"], [np.zeros(2), ("text", np.ones(()))])
    assert isinstance(owned(np.zeros(())), np.ndarray)


def test_an_info_that_holds_itself_is_copied_to_a_depth() -> None:
    info: dict[str, Any] = {"x": np.zeros(1), "thing": object()}
    info["self"] = [info, info]
    copy = owned(info, INFO_DEPTH)
    assert copy["self"][0] is not info
    assert copy["thing"] is info["thing"]


def test_frames_are_copies() -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    env = CheckedEnv(TestingEnv(render=lambda env: frame, render_mode="rgb_array"), "Testing-v0")
    drawn = env.render()
    frame[:] = 255
    assert not drawn.any()


def test_a_constructor_may_take_its_arguments_apart() -> None:
    taken: dict[str, Any] = {"options": {"length": 5}}
    make("tests.envs.test_ownership:Greedy-v0", env_kwargs=taken)
    assert taken == {"options": {"length": 5}}


class Greedy(TestingEnv):
    """Constructor that empties its keyword arguments."""

    def __init__(self, options: dict[str, Any], render_mode: str | None = None) -> None:
        super().__init__(length=options.pop("length"), render_mode=render_mode)


gym.register("Greedy-v0", entry_point=Greedy)
