"""Environments find their task by id and by spaces of the same meaning, however they are made."""

import dataclasses
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text
from gymnasium.wrappers import TransformObservation

import gato_agent
from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.train import _check_tasks
from gato_agent.envs.errors import UsageError
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.training.config import TrainConfig


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return Checkpoint.load(None)


IDS = ("BabyAI-GoToLocal-v0", "BabyAI-RGB/GoToLocal-v0", "Meta-World/reach-v3", "MinAtar/Breakout-v1")


@pytest.mark.parametrize("env_id", IDS)
def test_an_environment_is_known_whoever_makes_it(shipped: Checkpoint, env_id: str) -> None:
    with closing(gato_agent.make(env_id)) as env:
        assert find_task(shipped, env).id == env_id
    with closing(gym.make(env_id)) as env:
        assert find_task(shipped, env).id == env_id
        with closing(gato_agent.SB3VecEnv(env)) as envs:
            assert find_task(shipped, envs).id == env_id
    with closing(gato_agent.make_vec(env_id, 2)) as vector:
        assert find_task(shipped, vector).id == env_id


def test_a_raw_level_of_minigrid_is_played(shipped: Checkpoint) -> None:
    pytest.importorskip("minigrid")
    with closing(gym.make("BabyAI-GoToLocal-v0")) as env:
        agent = Agent(shipped, find_task(shipped, env))
        observation, _ = env.reset(seed=0)
        for _ in range(5):
            action, _ = agent.predict(observation)
            assert env.action_space.contains(action)
            observation = env.step(action)[0]


def test_another_precision_is_the_same_environment(shipped: Checkpoint) -> None:
    env = gym.make("MountainCar-v0")
    low, high = (bound.astype(np.float64) for bound in (env.observation_space.low, env.observation_space.high))  # type: ignore[attr-defined]
    wide = TransformObservation(env, lambda x: x.astype(np.float64), Box(low, high, dtype=np.float64))
    assert find_task(shipped, wide).id == "MountainCar-v0"
    wider = TransformObservation(env, lambda x: x, Box(2 * low, high, dtype=np.float64))
    with pytest.raises(UsageError, match="MountainCar-v0 has other spaces") as refused:
        find_task(shipped, wider)
    assert "actions" not in str(refused.value)  # only what differs is named


def test_fine_tuning_takes_tasks_of_the_same_meaning() -> None:
    known = TrainedTask("Toy-v0", Dict(m=Text(9), x=Discrete(3)), Box(-1, 1, (2,)))
    data = TrainedTask("Toy-v0", Dict(m=Text(30), x=Discrete(3, dtype=np.int32)), Box(-1, 1, (2,), np.float64))
    config = TrainConfig(data=(Path("data"),), init="runs/x")
    _check_tasks(config, {"Toy-v0": data}, {"Toy-v0": known})
    other = dataclasses.replace(data, action_space=Box(-1, 2, (2,)))
    with pytest.raises(UsageError, match="Toy-v0 has other spaces than in --init runs/x"):
        _check_tasks(config, {"Toy-v0": other}, {"Toy-v0": known})


def test_actions_are_in_the_task_space_of_equal_meaning() -> None:
    task = TrainedTask("Toy-v0", Box(-1, 1, (3,)), Box(-1, 1, (2,)))
    config = dataclasses.replace(GatoConfig.nano(), context=48, layers=1)
    checkpoint = Checkpoint(Gato(config).eval(), {task.id: task}, name="test weights")
    wide = Box(-1, 1, (2,), np.float64)
    action, _ = Agent(checkpoint, task).predict(np.zeros(3, np.float64))
    assert wide.contains(action)
