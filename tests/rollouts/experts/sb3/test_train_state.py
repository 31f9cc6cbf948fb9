"""Training an expert says what it does, can be interrupted, and goes on where it was."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium.envs.registration import EnvSpec
from safetensors.torch import load, save
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.experts.sb3 import train_progress
from gato_agent.rollouts.experts.sb3.hyperparams import DEFAULT, TUNED, Settings
from gato_agent.rollouts.experts.sb3.train import train
from gato_agent.rollouts.experts.sb3.train_progress import short_rollouts, whole_rollouts
from gato_agent.rollouts.experts.sb3.train_state import FILE, load_state, save_state
from tests.helpers.testing_env import TestingEnv

WANTED = {"seed": 0, "steps": 100, "env_kwargs": {}}
MODELS = {
    "PPO": {"n_steps": 16, "batch_size": 16, "n_epochs": 1},
    "DQN": {"learning_starts": 4, "train_freq": 4, "buffer_size": 100},
    "SAC": {"learning_starts": 4, "train_freq": 4, "buffer_size": 100},
}


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(train_progress, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(train_progress, "LONGEST", 0.3)


def made(algo: str) -> Any:
    env_id = "Pendulum-v1" if algo == "SAC" else "CartPole-v1"
    envs = VecNormalize(DummyVecEnv([lambda: gym.make(env_id)]))
    return getattr(stable_baselines3, algo)("MlpPolicy", envs, seed=0, device="cpu", **MODELS[algo])


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, each in value.items() for k, v in flat(each, f"{path}/{key}").items()}
    return {path: value}


@pytest.mark.parametrize("algo", MODELS)
def test_a_training_is_restored_with_optimizers_and_statistics(algo: str, tmp_path: Path) -> None:
    model, other = made(algo), made(algo)
    model.learn(32)
    save_state(tmp_path, model, WANTED)
    assert load_state(tmp_path, other, WANTED)
    assert other.num_timesteps == model.num_timesteps == 32
    before, after = (
        {key: value for key, value in flat(each.get_parameters()).items() if "param_groups" not in key}
        for each in (model, other)
    )
    assert before.keys() == after.keys() and any("exp_avg" in key for key in before)
    assert all(torch.equal(torch.as_tensor(before[key]), torch.as_tensor(after[key])) for key in before)
    for name in ("obs_rms", "ret_rms"):
        ours, theirs = (getattr(each.get_vec_normalize_env(), name) for each in (model, other))
        np.testing.assert_array_equal(ours.mean, theirs.mean)
        np.testing.assert_array_equal(ours.var, theirs.var)
        assert ours.count == theirs.count
    other.learn(16, reset_num_timesteps=False)
    assert other.num_timesteps == 48


def test_a_training_of_other_settings_begins_anew(tmp_path: Path) -> None:
    model = made("PPO")
    save_state(tmp_path, model, WANTED)
    assert not load_state(tmp_path, model, {**WANTED, "seed": 1})
    assert not load_state(tmp_path / "elsewhere", model, WANTED)


@pytest.mark.parametrize("damage", ["short", "missing", "shape", "count"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    model = made("PPO")
    model.learn(16)
    save_state(tmp_path, model, WANTED)
    path = tmp_path / FILE
    tensors = load(path.read_bytes())
    first = next(name for name in tensors if name.startswith("policy/"))
    if damage == "missing":
        del tensors[first]
    if damage == "shape":
        tensors[first] = torch.zeros(3, 3, 3)
    if damage == "count":
        tensors["return/count"] = torch.zeros(2)
    about = '{"seed": 0, "steps": 100, "env_kwargs": {}, "done": 16}'
    path.write_bytes(path.read_bytes()[:-9] if damage == "short" else save(tensors, {"gato": about}))
    with pytest.raises(GatoError, match=r"interrupted\.safetensors is damaged \(.*\): delete it"):
        load_state(tmp_path, model, WANTED)


def test_an_interrupt_keeps_a_checkpoint_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[int] = []
    interrupted = 3000

    def step(env: TestingEnv, action: Any) -> Any:
        taken.append(1)
        if len(taken) == interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        return env.observe(), 1.0, env.t >= 5, False, {}

    monkeypatch.setattr("gato_agent.rollouts.experts.sb3.train.measured_speed", lambda model: 1000.0)
    monkeypatch.setitem(gym.registry, "Stopped-v0", EnvSpec("Stopped-v0", lambda: TestingEnv(step=step)))
    with pytest.raises(KeyboardInterrupt):
        train("Stopped-v0", {}, 0, 5000, tmp_path)
    out = capsys.readouterr().out
    assert "Stopped-v0: 6,144 steps of PPO, 5,000 rounded up to whole rollouts: about 0:00:06 at 1,000 steps/s" in out
    done = int(re.search(r"saved after ([\d,]+) steps", out)[1].replace(",", ""))  # type: ignore[index]
    assert interrupted <= done <= interrupted + DEFAULT.num_envs
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert train("Stopped-v0", {}, 0, 5000, tmp_path) == tmp_path / "model.zip"
    out = capsys.readouterr().out
    assert f"of which {done:,} are done" in out
    assert len(taken) < 2 * interrupted + 2 * 2048
    assert {path.name for path in tmp_path.iterdir()} == {"model.zip", "obs_norm.npz", "training.json"}


@pytest.mark.parametrize(("steps", "taken"), [(1, 2048), (2048, 2048), (2049, 4096), (500_000, 501_760)])
def test_on_policy_algorithms_take_whole_rollouts(steps: int, taken: int) -> None:
    envs = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 8)
    model = stable_baselines3.PPO("MlpPolicy", envs, n_steps=256, batch_size=128, device="cpu")
    assert whole_rollouts(model, steps) == taken
    assert whole_rollouts(made("DQN"), steps) == steps


@pytest.mark.parametrize("settings", [DEFAULT, *TUNED.values(), Settings(1, 1), replace(DEFAULT, num_envs=500)])
def test_speed_is_measured_in_short_rollouts_of_whole_batches(settings: Settings) -> None:
    short = short_rollouts(settings)
    assert short.num_envs == settings.num_envs and short.algo == settings.algo
    if settings.algo == "PPO":
        batch = settings.kwargs.get("batch_size", 64)
        assert 2 <= short.kwargs["n_steps"] <= max(2, settings.kwargs.get("n_steps", 2048))
        assert short.kwargs["n_steps"] * short.num_envs >= batch
    else:
        assert short.kwargs["learning_starts"] <= short.kwargs["train_freq"]
