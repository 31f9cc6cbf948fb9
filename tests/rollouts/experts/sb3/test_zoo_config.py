"""Settings of a zoo run give the wrappers and normalisation of an expert, and execute nothing."""

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from gato_agent.envs.errors import UsageError
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.zoo_config import CONFIGS, read_config
from tests.helpers.sb3_zips import ENV, SMALL, acts_behind, load, put, refusal
from tests.helpers.testing_env import TestingEnv


def run_of(folder: Path, config: dict[str, Any], args: dict[str, Any] | None = None) -> Path:
    """Folder of a zoo run with its settings."""
    model = put("silent.zip", folder / "best_model.zip")
    (folder / ENV).mkdir()
    (folder / ENV / "config.yml").write_text(yaml.dump(OrderedDict(config)))
    (folder / ENV / "args.yml").write_text(yaml.dump(OrderedDict(args or {})))
    return model


@pytest.mark.parametrize(
    "normalize", [True, "{'norm_obs': True, 'norm_reward': False}", {"norm_obs": True}, "dict(norm_reward=True)"]
)
def test_settings_that_say_normalised_ask_for_statistics(tmp_path: Path, normalize: Any) -> None:
    model = run_of(tmp_path, {"n_timesteps": 1e6, "normalize": normalize, "policy": "MlpPolicy"})
    with pytest.raises(UsageError, match=r"best_model\.zip was trained with VecNormalize"):
        load(model)
    put("1.pkl", tmp_path / ENV / "vecnormalize.pkl")
    assert acts_behind(load(model), model, 1)


@pytest.mark.parametrize(
    "normalize", [False, None, "{'norm_obs': False, 'norm_reward': True}", {"norm_obs": False}, "dict(norm_obs=False)"]
)
def test_settings_that_say_otherwise_ask_for_none(tmp_path: Path, normalize: Any) -> None:
    model = run_of(tmp_path, {"normalize": normalize})
    assert acts_behind(load(model), model, None)


def test_wrappers_and_their_arguments_are_taken_from_the_settings(tmp_path: Path) -> None:
    class Endless(TestingEnv):
        """Environment without a limit, so that the wrapper's horizon counts."""

    space = Box(-np.inf, np.inf, (2,), np.float64)
    env = TimeFeatureWrapper(Endless(observation_space=space, action_space=Box(-1, 1, (1,))), max_steps=50)
    PPO("MlpPolicy", env, **SMALL).learn(16).save(tmp_path / "best_model.zip")
    (tmp_path / "E").mkdir()
    (tmp_path / "E" / "config.yml").write_text(yaml.dump(OrderedDict(
        env_wrapper=[{"sb3_contrib.common.wrappers.TimeFeatureWrapper": {"max_steps": 50}},
                     "rl_zoo3.wrappers.PlotActionWrapper"], policy="MlpPolicy",
    )))  # fmt: skip
    expert = load_expert(str(tmp_path / "best_model.zip"), "E", space, env.action_space)
    model = PPO.load(tmp_path / "best_model.zip", device="cpu")
    expert.reset(1)
    for t in range(3):
        obs = np.array([[1.0, t]])
        wanted, _ = model.predict(np.append(obs, [[1 - t / 50]], 1), deterministic=True)
        np.testing.assert_array_equal(expert.act(obs, np.array([t == 0])), wanted)


@pytest.mark.parametrize("order", ["normalised, stacked", "stacked, normalised", "stacked"])
@pytest.mark.parametrize("said", ["settings", "vec_env_wrapper", "option"])
def test_stacked_frames(tmp_path: Path, order: str, said: str) -> None:
    envs: Any = DummyVecEnv([lambda: gym.make(ENV)])
    if order == "normalised, stacked":
        envs = VecFrameStack(VecNormalize(envs), 4)
    else:
        envs = VecFrameStack(envs, 4)
        envs = VecNormalize(envs) if "normalised" in order else envs
    model = PPO("MlpPolicy", envs, **SMALL).learn(16)
    model.save(tmp_path / "best_model.zip")
    if (normalizer := model.get_vec_normalize_env()) is not None:
        normalizer.training = False
        normalizer.save(str(tmp_path / "vecnormalize.pkl"))
    wrapped = {"stable_baselines3.common.vec_env.VecFrameStack": {"n_stack": 4}}
    config = {"settings": {"frame_stack": 4}, "vec_env_wrapper": {"vec_env_wrapper": [wrapped]}, "option": {}}[said]
    (tmp_path / "config.yml").write_text(yaml.dump(OrderedDict(config)))
    expert = load(tmp_path / "best_model.zip", wrappers={"frame_stack": {"n": 4}} if said == "option" else None)
    inner = envs.unwrapped
    envs.seed(5)
    obs, start = envs.reset(), True
    plain = inner._obs_from_buf().copy()
    for _ in range(6):
        action, _ = model.predict(obs, deterministic=True)
        np.testing.assert_allclose(expert.act(plain, np.array([start])), action, atol=1e-6)
        obs = envs.step(action)[0]
        plain, start = inner._obs_from_buf().copy(), False


def test_a_wrapper_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    model = run_of(tmp_path, {"env_wrapper": [{"rl_zoo3.wrappers.HistoryWrapper": {"horizon": 2}}]})
    with pytest.raises(UsageError, match=r"config\.yml: .* rl_zoo3\.wrappers\.HistoryWrapper with \{'horizon': 2\}"):
        load(model)
    assert acts_behind(load(model, statistics="none"), model, None)


def test_arguments_of_the_environment_are_compared(tmp_path: Path) -> None:
    model = run_of(tmp_path, {}, {"env": ENV, "env_kwargs": OrderedDict(g=9.81, render_mode="human")})
    with pytest.raises(
        UsageError, match=r"best_model\.zip was trained .* arguments \{\"g\": 9\.81\}, and here .* \{\}"
    ):
        load(model)
    assert acts_behind(load(model, env_kwargs={"g": 9.81}), model, None)
    assert acts_behind(load(model, statistics="none"), model, None)


def test_settings_run_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for text in (
        f"!!python/object/apply:os.system ['touch {canary}']",
        f"env_wrapper: !!python/object/apply:os.system ['touch {canary}']",
        f"normalize: !!python/object/new:os.system ['touch {canary}']",
        "a: !!python/name:os.system\nb: !!python/module:os",
        f"normalize: \"__import__('os').system('touch {canary}')\"",
    ):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        model = put("silent.zip", tmp_path / "run" / "model.zip")
        for name in CONFIGS:
            (tmp_path / "run" / name).write_text(text)
        said = refusal(load, model)
        assert not said or str(tmp_path) in said
        assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x00", b"{", b"a: b: c", b"[" * 5000, b"- " * 20000, b"\xff\xfe\x00", b"x" * 2**19,
        b"a: &a [1, 1]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 121)),
        b"a: &a [*a]", b"? [1, 2]\n: 3", b"1: 2", b"", b"null", b"[]", b"- - - a", b"!!binary '='", b"2001-99-99: 1",
    ],
)  # fmt: skip
def test_damaged_settings_are_named(tmp_path: Path, content: bytes) -> None:
    model = put("silent.zip", tmp_path / "model.zip")
    (tmp_path / "config.yml").write_bytes(content)
    said = refusal(load, model)
    assert acts_behind(load(model), model, None) if not said else str(tmp_path / "config.yml") in said
    assert len(said) < 1000


@given(st.binary(max_size=200) | st.text(alphabet="!&*[]{}:-? \na1<'\"|>%@`#,\t", max_size=60).map(str.encode))
def test_any_settings_are_read_or_named(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("settings")
    (folder / "config.yml").write_bytes(content)
    said = refusal(read_config, [folder], None)
    assert not said or str(folder) in said
    shutil.rmtree(folder)
