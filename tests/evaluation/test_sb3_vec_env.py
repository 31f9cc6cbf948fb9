"""Stable-Baselines3 evaluates agents in environments of any space, made by Gymnasium or by this package."""

import dataclasses
from contextlib import closing
from decimal import Decimal
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Text, Tuple
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import gato_agent
from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.checked_env import CheckedEnv
from gato_agent.envs.errors import EnvironmentFault, UsageError
from gato_agent.envs.make import find_spec
from gato_agent.envs.tasks.task import catalogue, is_installed
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from tests.helpers.scribblers import ScribblingEnv
from tests.helpers.testing_env import TestingEnv

SMALL = dataclasses.replace(GatoConfig.nano(), context=48, layers=2)
NESTED = Dict({"goal": Tuple((Discrete(3), Box(-np.inf, np.inf, (2,)))), "at": Dict({"x": Box(-1, 1, (2,))})})
HANDS = Dict({"grip": Discrete(2, start=1), "move": Box(-2, 3, (2,)), "keys": Tuple((MultiDiscrete([3, 4]),))})
MAKERS: dict[str, Any] = {
    "gym": lambda env_id, **kwargs: gato_agent.SB3VecEnv(gym.make(env_id, **kwargs)),
    "gato_agent": gato_agent.make,
}
FIRST = {task.suite: task.id for task in reversed(catalogue().values())}


class Sampled(gym.Env[Any, Any]):
    """Observations drawn from the space for four steps, each worth one."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observation_space.sample(), 1.0, False, self.t == 4, {}


class Reader:
    """Policy that keeps the missions that it is given."""

    def __init__(self) -> None:
        self.missions: list[str] = []

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        self.missions += list(observation["mission"])
        return np.zeros(len(observation["x"]), np.int64), None


def agent_for(observation: Space[Any], action: Space[Any]) -> Agent:
    torch.manual_seed(0)
    task = TrainedTask("Toy-v0", observation, action)
    return Agent(Checkpoint(Gato(SMALL).eval(), {task.id: task}, name="test weights"), task)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("action", [HANDS, Tuple((Discrete(2), Box(-1, 1, (2,)))), Discrete(3)], ids=type)
def test_nested_observations_and_actions_are_evaluated(action: Space[Any], num_envs: int) -> None:
    env = gato_agent.SB3VecEnv(*(Sampled(NESTED, action) for _ in range(num_envs)))
    returns, lengths = evaluate_policy(agent_for(NESTED, action), env, 5, return_episode_rewards=True, warn=False)
    assert returns == lengths == [4] * 5


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_it_steps_as_stable_baselines3s_own(env_id: str) -> None:
    kwargs = {"max_episode_steps": 9}
    ours = gato_agent.SB3VecEnv(*(gym.make(env_id, **kwargs) for _ in range(2)))
    theirs = DummyVecEnv([lambda: gym.make(env_id, **kwargs)] * 2)
    for env in (ours, theirs):
        env.seed(3)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    ours.action_space.seed(0)
    for _ in range(25):
        actions = np.stack([ours.action_space.sample() for _ in range(2)])
        a, b = ours.step(actions), theirs.step(actions)
        np.testing.assert_equal(a, b)
        np.testing.assert_equal(ours.reset_infos, theirs.reset_infos)
    assert ours.get_attr("spec") == ours.get_attr("spec", [0, 1])
    assert ours.env_is_wrapped(Monitor) == [False, False]
    assert gato_agent.SB3VecEnv(Monitor(gym.make(env_id))).env_is_wrapped(Monitor) == [True]
    ours.close()
    theirs.close()


def test_whole_strings_arrive_in_stable_baselines3s_own_vector_environment() -> None:
    space = Dict({"mission": Text(40, min_length=20), "x": Discrete(3)})
    raw = Sampled(space, Discrete(2))
    for env in (CheckedEnv(raw, "Toy-v0"), gato_agent.SB3VecEnv(raw)):
        reader = Reader()
        evaluate_policy(reader, env, 1, warn=False)
        assert len(reader.missions) == 4 and min(map(len, reader.missions)) >= 20
        assert all(map(space["mission"].contains, reader.missions))


@pytest.mark.parametrize("num_envs", [1, 2])
def test_arrays_of_environments_and_callers_are_separate(num_envs: int) -> None:
    space = Dict(a=Box(-1, 1, (2,), np.float32), b=Box(-1, 1, (1,), np.float32))
    envs = [ScribblingEnv(space, Box(-1, 1, (2,), np.float32)) for _ in range(num_envs)]
    vec = gato_agent.SB3VecEnv(*envs)
    vec.seed(0)
    seen = [vec.reset()]
    for _ in range(3):
        action = np.full((num_envs, 2), 0.5, np.float32)
        seen.append(vec.step(action)[0])
        assert (action == 0.5).all()
    for index, env in enumerate(envs):
        for batch, own in zip(seen, env.seen[index], strict=False):
            assert all(np.array_equal(batch[key][index], own[key]) for key in ("a", "b"))


@pytest.mark.parametrize("reward", [1, True, np.array([1.0]), np.array(1.0), np.float16(1), Decimal(1)])
@pytest.mark.parametrize("end", [0, None, np.False_, np.array([False])])
def test_rewards_and_ends_of_any_type_are_cast(reward: Any, end: Any) -> None:
    vec = gato_agent.SB3VecEnv(TestingEnv(step=lambda env, action: (env.observe(), reward, end, end, {})))
    vec.reset()
    _, rewards, dones, infos = vec.step(np.array([1]))
    assert (rewards.tolist(), dones.tolist(), infos[0]["TimeLimit.truncated"]) == ([1.0], [False], False)


def test_faults_name_environment_seed_and_step() -> None:
    vec = gato_agent.SB3VecEnv(TestingEnv(step=lambda env, action: (env.observe(), 0.0, False, {})))
    vec.seed(3)
    vec.reset()
    with pytest.raises(EnvironmentFault, match=r"^TestingEnv: step 0 of seed 3 returned 4 values; Gymnasium's API"):
        vec.step(np.array([1]))
    with pytest.raises(EnvironmentFault, match=r"^TestingEnv: reset with seed None returned array"):
        gato_agent.SB3VecEnv(TestingEnv(reset=lambda env, seed, options: np.zeros(2))).reset()


def test_the_same_environment_twice_is_refused() -> None:
    env = gym.make("CartPole-v1")
    for envs in ((), (env, env), (env, Monitor(env))):
        with pytest.raises(UsageError, match="each of them once"):
            gato_agent.SB3VecEnv(*envs)


def test_monitors_and_renders() -> None:
    env = VecMonitor(gato_agent.SB3VecEnv(gym.make("CartPole-v1", render_mode="rgb_array")))
    agent = Agent.from_pretrained(None, "CartPole-v1")
    assert evaluate_policy(agent, env, 1)[0] > 0
    assert env.get_images()[0].shape[2] == 3  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return Checkpoint.load(None)


def returns_of(shipped: Checkpoint, env_id: str, maker: str, **kwargs: Any) -> list[float]:
    """Return of one episode of the shipped agent, in an environment of Gymnasium or of this package."""
    if not is_installed(catalogue()[env_id]):
        pytest.skip(f"{env_id} is not installed")
    find_spec(env_id)  # imports the package that registers the id
    with closing(MAKERS[maker](env_id, **kwargs)) as env:
        task = find_task(shipped, env)
        assert task.id == env_id
        returns, _ = evaluate_policy(Agent(shipped, task), env, 1, return_episode_rewards=True, warn=False)
    assert len(returns) == 1 and np.isfinite(returns).all()  # type: ignore[arg-type]
    return returns  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("env_id", catalogue())
def test_the_first_steps_of_every_task_are_evaluated(shipped: Checkpoint, env_id: str, maker: str) -> None:
    returns_of(shipped, env_id, maker, max_episode_steps=10)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", catalogue())
def test_a_whole_episode_of_every_task_is_evaluated(shipped: Checkpoint, env_id: str) -> None:
    returns_of(shipped, env_id, "gym")


@pytest.mark.slow
@pytest.mark.parametrize("suite", FIRST)
def test_a_whole_episode_of_each_family_is_evaluated(shipped: Checkpoint, suite: str) -> None:
    returns_of(shipped, FIRST[suite], "gato_agent")
