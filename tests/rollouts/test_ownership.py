"""Episodes are not changed by writes of environments, experts and agents into their arrays."""

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from gato_agent.envs.loop import steps
from gato_agent.envs.spaces.batch_of_one import only_one
from gato_agent.envs.spaces.flatten import stack
from gato_agent.envs.vector import SeparateInfos
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.collection.dagger import Guided
from gato_agent.rollouts.collection.noise import Noisy
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from tests.helpers.random_spaces import random_space
from tests.helpers.scribblers import ScribblingActor, ScribblingEnv, scribble

OBSERVATIONS = Dict(a=Box(-1, 1, (2,)), b=Discrete(3))
ACTIONS = Dict(x=Box(-1, 1, (2,)), y=Discrete(3))
SPACES = [ACTIONS, Box(-1, 1, (3,)), Box(-np.inf, 2, ()), Discrete(4, start=-2), Tuple((MultiBinary(2), Discrete(2)))]
MADE: list[ScribblingEnv] = []
EXPERTS: list[ScribblingActor] = []


def remembered(**kwargs: Any) -> ScribblingEnv:
    MADE.append(ScribblingEnv(OBSERVATIONS, ACTIONS))
    return MADE[-1]


def expert(observation_space: Space[Any], action_space: Space[Any]) -> ScribblingActor:
    EXPERTS.append(ScribblingActor(action_space))
    return EXPERTS[-1]


gym.register("Scribbling-v0", entry_point=remembered)


class Student(ScribblingActor):
    """Student with other actions than the expert."""

    def __init__(self, action_space: Space[Any]) -> None:
        super().__init__(action_space, seed=1)


class Named:
    """Learner with an injected student."""

    sha256 = "ab" * 32

    def knows(self, env_id: str) -> bool:
        return True

    def check(self, envs: Any) -> None: ...

    def make(self, envs: Any) -> Student:
        return Student(envs.single_action_space)


def play(actor: Noisy | Guided, env: ScribblingEnv, seed: int) -> tuple[list[Any], list[Any]]:
    """Received actions and labels of one episode."""
    envs = SeparateInfos([lambda: env])
    actor.seed(seed)
    labels = []
    for step in steps(actor, envs, [seed]):
        labels.append(actor.label)
        scribble([step.obs, step.action, step.next_obs])
    return env.actions[seed], labels


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SPACES))
def test_noise_keeps_what_the_expert_wanted(seed: int, space: Space[Any]) -> None:
    env, wanted = ScribblingEnv(OBSERVATIONS, space), ScribblingActor(space)
    env.length = 40
    arrived, labels = play(Noisy(wanted, space), env, seed)
    np.testing.assert_equal(labels, wanted.chosen)
    # Without a scribbler in the environment's place the same actions arrive: held ones are not spoilt either.
    undisturbed, one = Noisy(ScribblingActor(space), space), only_one(space)
    undisturbed.seed(seed)
    undisturbed.reset(1)
    expected = [deepcopy(one(undisturbed.act({"a": np.zeros((1, 2))}, np.zeros(1, np.bool_)))) for _ in arrived]
    np.testing.assert_equal(arrived, expected)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0]))
def test_turns_keep_what_the_expert_wanted(seed: int, beta: float) -> None:
    space = random_space(np.random.default_rng(seed))
    env, wanted, student = ScribblingEnv(OBSERVATIONS, space), ScribblingActor(space), Student(space)
    env.length = 30
    arrived, labels = play(Guided(student, wanted, {"beta": beta}), env, seed)
    np.testing.assert_equal(labels, wanted.chosen)
    np.testing.assert_equal(student.seen, wanted.seen)  # the expert spoils its own copy
    assert student.starts == wanted.starts
    assert len(student.chosen) + len(student.followed) == len(arrived)
    for followed in student.followed:
        assert any(same(followed, label) for label in labels)


@pytest.mark.parametrize("make", [Noisy, lambda expert, space: Guided(Student(space), expert, {"beta": 0.5})])
def test_actions_that_were_returned_may_be_spoilt(make: Any) -> None:
    taken: list[list[Any]] = []
    for spoil in (False, True):
        wanted = ScribblingActor(ACTIONS)
        actor = make(wanted, ACTIONS)
        actor.seed(4)
        actor.reset(1)
        taken.append([])
        for t in range(60):
            start = np.array([t == 0])
            action = actor.act({"a": np.zeros((1, 2))}, start)
            taken[-1].append(deepcopy(action))
            if spoil:
                scribble(action)
            np.testing.assert_equal(actor.label, wanted.chosen[-1])
    np.testing.assert_equal(*taken)


def same(a: Any, b: Any) -> bool:
    try:
        np.testing.assert_equal(a, b)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("way", ["plain", "noise", "dagger"])
def test_collected_episodes_are_what_happened(tmp_path: Any, way: str) -> None:
    MADE.clear()
    EXPERTS.clear()
    config = CollectConfig(
        env=("Scribbling-v0",), expert="tests.rollouts.test_ownership:expert", episodes=12, workers=0, out=tmp_path,
        noise=way == "noise",
    )  # fmt: skip
    collect(config, Named() if way == "dagger" else None)
    env, one = MADE[-1], only_one(ACTIONS)
    wanted = stack(ACTIONS, [one(batch) for batch in EXPERTS[-1].chosen])
    store = EpisodeStore(tmp_path / "Scribbling-v0")
    assert store.indices() == list(range(12))
    for index in store.indices():
        episode = store.read(index)
        np.testing.assert_equal(episode.observations, stack(OBSERVATIONS, env.seen[index]))
        np.testing.assert_equal(episode.actions, stack(ACTIONS, env.actions[index]))
        part = slice(index * env.length, (index + 1) * env.length)
        np.testing.assert_equal(episode.targets, {path: column[part] for path, column in wanted.items()})
