"""`--expert train`: trained once, reproducible, and stored for the next collect."""

import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.vector.utils import batch_space
from stable_baselines3 import PPO

from gato_agent.envs.errors import EnvironmentFault, GatoError, UsageError
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3 import train_progress
from gato_agent.rollouts.experts.sb3.hyperparams import TUNED, Falling, Settings
from gato_agent.rollouts.experts.sb3.preprocess import flat_value, moved
from gato_agent.rollouts.experts.sb3.train import train
from gato_agent.rollouts.experts.sb3.zip_model import read_zip
from gato_agent.rollouts.storage.episode_store import open_stores
from tests.helpers.testing_env import TestingEnv


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """Measure the speed briefly."""
    monkeypatch.setattr(train_progress, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(train_progress, "LONGEST", 0.3)


def registered(monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> str:
    """Register a TestingEnv with these arguments and return its id."""
    monkeypatch.setitem(gym.registry, "Training-v0", EnvSpec("Training-v0", lambda: TestingEnv(**kwargs)))
    return "Training-v0"


def hash_of(path: Path) -> str:
    return read_zip(path).sha256


def test_the_same_seed_trains_the_same_expert(tmp_path):
    same = [train("CartPole-v1", {}, 0, 512, tmp_path / name) for name in ("a", "b")]
    other = train("CartPole-v1", {}, 1, 512, tmp_path / "c")
    assert same == [tmp_path / "a" / "model.zip", tmp_path / "b" / "model.zip"]
    assert hash_of(same[0]) == hash_of(same[1]) != hash_of(other)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"model.zip", "training.json"}


def test_normalised_observations_are_kept_beside_the_zip(tmp_path):
    path = train("Acrobot-v1", {}, 0, 512, tmp_path)
    normalize = read_zip(path).normalize
    assert normalize is not None
    assert normalize.mean[""].shape == (6,)
    assert {file.name for file in tmp_path.iterdir()} == {"model.zip", "obs_norm.npz", "training.json"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "--seed 0, now 1:"),
        ({"steps": 64}, "--train-steps 32, now 64:"),
        ({"steps": None}, "--train-steps 32, now 100000:"),
        ({"env_kwargs": {"sutton_barto_reward": True}}, '--env-kwargs {}, now {"sutton_barto_reward": true}:'),
        ({"seed": 1, "steps": 64}, "--seed 0, now 1 and --train-steps 32, now 64:"),
    ],
)
def test_an_expert_that_was_trained_otherwise_is_not_used(tmp_path, change, message):
    arguments = {"env_id": "CartPole-v1", "env_kwargs": {}, "seed": 0, "steps": 32, "folder": tmp_path}
    path = train(**arguments)
    before = path.read_bytes()
    assert train(**arguments) == path
    with pytest.raises(UsageError, match=f"was trained with {re.escape(message)} repeat .*--out, or delete {tmp_path}"):
        train(**arguments | change)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", [None, "{", "[]", '{"seed": 0}'])
def test_an_expert_that_does_not_say_how_it_was_trained_is_not_used(tmp_path, text):
    (tmp_path / "model.zip").write_bytes(b"")
    if text is not None:
        (tmp_path / "training.json").write_text(text)
    with pytest.raises(GatoError, match=r"training\.json does not say how .*or delete"):
        train("CartPole-v1", {}, 0, 32, tmp_path)


def test_rates_fall_from_their_start_to_their_end():
    assert [Falling(3.0)(left) for left in (1.0, 0.5, 0.0)] == [3.0, 1.5, 0.0]
    assert [Falling(3.0, 1.0)(left) for left in (1.0, 0.5, 0.0)] == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("env_id", [env_id for env_id in TUNED if "Bipedal" not in env_id])
def test_every_tuned_setting_is_one_that_sb3_takes(tmp_path, env_id, monkeypatch):
    short = {"n_steps": 16, "learning_starts": 0, "train_freq": 8, "gradient_steps": 1}
    tuned = TUNED[env_id]
    kwargs = {key: min(value, short[key]) if key in short else value for key, value in tuned.kwargs.items()}
    monkeypatch.setitem(TUNED, env_id, Settings(tuned.steps, 2, tuned.normalize, tuned.algo, kwargs))
    assert train(env_id, {}, 0, 64, tmp_path).exists()


@pytest.mark.parametrize(
    "space", [Box(0, 255, (40, 40, 3), np.uint8), Dict(a=Box(-1, 1, (2,)), b=Box(0, 1, (3,))), Discrete(4)]
)
def test_any_observations_that_sb3_knows(tmp_path, monkeypatch, space):
    monkeypatch.setattr(TestingEnv, "observe", lambda self: space.sample())
    path = train(registered(monkeypatch, observation_space=space), {}, 0, 16, tmp_path)
    normalize = read_zip(path).normalize
    assert (normalize is None) == (not isinstance(space, Dict))


@pytest.mark.parametrize(
    "spaces",
    [
        {"action_space": Text(3)},
        {"action_space": Dict(a=Discrete(2))},
        {"action_space": Box(-np.inf, np.inf, (2,))},
        {"observation_space": Text(3)},
        {"observation_space": Dict(mission=Text(10), x=Box(-1, 1, (2,)))},
        {"observation_space": Dict(a=Dict(b=Text(4)), x=Discrete(2))},
        {"observation_space": Tuple((Discrete(2), Text(4)))},
        {"observation_space": Dict(small=Box(0, 255, (20, 20, 3), np.uint8), x=Discrete(2))},
        {"observation_space": Tuple((Dict(small=Box(0, 255, (20, 20, 1), np.uint8)), Discrete(2)))},
    ],
    ids=str,
)
def test_spaces_that_sb3_does_not_know_are_named_before_training(tmp_path, monkeypatch, spaces):
    small = (
        r"images beside other observations need 36 x 36 pixels, unlike '(0/)?small', Box"
        if "small" in str(spaces)
        else ""
    )
    wanted = rf"Training-v0: Stable-Baselines3 cannot train in its spaces.*{small}.*--expert PATH"
    with pytest.raises(UsageError, match=wanted):
        train(registered(monkeypatch, **spaces), {}, 0, 16, tmp_path / "expert")
    assert not (tmp_path / "expert").exists()


def test_what_goes_wrong_in_training_names_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr("stable_baselines3.PPO.train", lambda self: 1 / 0)
    with pytest.raises(GatoError, match=r"^Training-v0: training an expert raised ZeroDivisionError.*--expert PATH"):
        train(registered(monkeypatch), {}, 0, 16, tmp_path / "expert")
    assert not (tmp_path / "expert").exists()


@pytest.mark.parametrize(
    ("observed", "acted"),
    [
        (None, Discrete(3, start=-1)),
        (None, MultiDiscrete([2, 3], start=[5, -3])),
        (Discrete(4, start=-2), Discrete(2)),
        (Dict(a=Discrete(3, start=1), b=Box(-1, 1, (2,))), Discrete(2, start=7)),
        (MultiDiscrete([2, 2], start=[1, -1]), Discrete(2)),
        (Tuple((Discrete(32), Discrete(11, start=1), Discrete(2))), Discrete(2)),
        (Dict(a=Dict(b=Box(-1, 1, (2,)), c=Discrete(3, start=-1)), x=Box(-1, 1, (1,))), Discrete(2)),
        (Dict({"a/b": Tuple((Box(-1, 1, (2,)), Tuple((MultiBinary(3),)))), "x": Box(-1, 1, (1,))}), Discrete(2)),
        (Box(0, 255, (32, 32, 3), np.uint8), Discrete(3, start=1)),
    ],
    ids=str,
)
def test_discrete_values_may_start_anywhere(tmp_path, monkeypatch, observed, acted):
    """The environment gets only actions in its space, in training and afterwards."""

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.observe(), 1.0, self.t >= self.length, False, {}

    if observed is not None:
        monkeypatch.setattr(TestingEnv, "observe", lambda self: self.observation_space.sample())
    env_id = registered(monkeypatch, observation_space=observed, action_space=acted, step=step)
    config = CollectConfig(env=(env_id,), expert="train", episodes=4, out=tmp_path, train_steps=16, workers=0)
    collect(config)
    (store,) = open_stores(tmp_path)
    assert store.indices() == [0, 1, 2, 3]
    path = tmp_path / "experts" / env_id / "model.zip"
    model = PPO.load(path, device="cpu")
    spaces = observed or TestingEnv().observation_space, acted
    expert = load_expert(str(path), env_id, *spaces)
    batch = batch_space(spaces[0], 5)
    seen = batch.sample()
    expert.reset(5)
    normalize, counted = read_zip(path).normalize, flat_value(spaces[0], moved(spaces[0], seen, -1))
    wanted, _ = model.predict(normalize(counted) if normalize else counted, deterministic=True)
    np.testing.assert_array_equal(expert.act(seen, np.ones(5, np.bool_)), moved(acted, wanted, 1))


def test_an_environment_that_raises_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def step(self, action):
        raise RuntimeError("flat battery")

    with pytest.raises(EnvironmentFault, match="flat battery"):
        train(registered(monkeypatch, step=step), {}, 0, 16, tmp_path / "expert")
    assert not (tmp_path / "expert").exists()


def test_collect_trains_once_and_goes_on_with_the_same_expert(tmp_path, capsys):
    config = CollectConfig(env=("CartPole-v1",), expert="train", episodes=2, out=tmp_path, train_steps=512)
    collect(config)
    out = capsys.readouterr().out
    assert "CartPole-v1: training an expert with PPO: 512 of 512 steps" in out
    assert re.search(r"CartPole-v1: 512 steps of PPO: about \d:\d\d:\d\d at [\d,]+ steps/s", out)
    collect(replace(config, episodes=4))
    assert "using the expert trained before" in capsys.readouterr().out
    (store,) = open_stores(tmp_path)
    assert store.indices() == [0, 1, 2, 3]
    assert store.header["expert"]["kind"] == "train"
    assert store.header["expert"]["sha256"] == hash_of(tmp_path / "experts" / "CartPole-v1" / "model.zip")


@pytest.mark.slow
def test_cartpole_is_solved_in_about_a_minute(tmp_path):
    began = time.monotonic()
    collect(CollectConfig(env=("CartPole-v1",), expert="train", episodes=20, out=tmp_path))
    (store,) = open_stores(tmp_path)
    assert np.mean([store.read(seed).total for seed in range(20)]) >= 475
    print(f"trained and collected in {time.monotonic() - began:.0f} s", file=sys.stderr)
