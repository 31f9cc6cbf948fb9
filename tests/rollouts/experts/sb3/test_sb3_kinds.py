"""Zips of every algorithm and kind of space act exactly as SB3's own `predict`; no sound file is called damaged."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from gato_agent.envs.errors import GatoError
from gato_agent.envs.vector import SeparateInfos
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.trained_behind import trained_behind
from tests.helpers.testing_env import TestingEnv

FLAT = Box(-1, 1, (4,), np.float32)
IMAGE, FIRST = Box(0, 255, (40, 40, 3), np.uint8), Box(0, 255, (3, 40, 40), np.uint8)
MIXED = Dict(v=FLAT, i=IMAGE)
UNSORTED = Dict([("z", FLAT), ("a", Box(-1, 1, (3,), np.float32))])
CHOICE, MOVE = Discrete(3), Box(-1, 1, (2,), np.float32)
SHORT: dict[str, Any] = {"n_steps": 8, "batch_size": 8}
LSTM: dict[str, Any] = {"lstm_hidden_size": 8}


class Sampled(TestingEnv):
    """Environment that observes samples, and masks an action that changes with every step."""

    def observe(self) -> Any:
        return self.observation_space.sample()

    def action_masks(self) -> np.ndarray:
        space: Any = self.action_space
        sizes = [2] * space.n if isinstance(space, MultiBinary) else getattr(space, "nvec", getattr(space, "n", 2))
        return np.concatenate([np.arange(size) != self.t % size for size in np.ravel(sizes)])


KINDS: list[tuple[str, str, Space[Any], Space[Any], dict[str, Any]]] = [
    *[(algo, "Mlp", FLAT, MOVE, {}) for algo in ("SAC", "TD3", "DDPG", "TQC", "CrossQ", "ARS")],
    *[(algo, "Cnn", IMAGE, MOVE, {"buffer_size": 10}) for algo in ("SAC", "TD3", "TQC")],
    *[(algo, "MultiInput", MIXED, MOVE, {"buffer_size": 10}) for algo in ("SAC", "TD3", "TQC")],
    *[(algo, "Mlp", FLAT, CHOICE, {}) for algo in ("DQN", "QRDQN")],
    *[(algo, "Cnn", IMAGE, CHOICE, {"buffer_size": 10}) for algo in ("DQN", "QRDQN")],
    *[(algo, "MultiInput", MIXED, CHOICE, {"buffer_size": 10}) for algo in ("DQN", "QRDQN")],
    *[(algo, "Mlp", FLAT, CHOICE, SHORT) for algo in ("PPO", "TRPO", "MaskablePPO")],
    *[(algo, "Cnn", space, CHOICE, SHORT) for algo in ("PPO", "MaskablePPO") for space in (IMAGE, FIRST)],
    *[(algo, "MultiInput", space, CHOICE, SHORT) for algo in ("PPO", "MaskablePPO") for space in (MIXED, UNSORTED)],
    ("A2C", "Mlp", FLAT, CHOICE, {}),
    ("ARS", "Linear", FLAT, CHOICE, {}),
    ("MaskablePPO", "Mlp", FLAT, MultiDiscrete([2, 3]), SHORT),
    ("MaskablePPO", "Mlp", FLAT, MultiBinary(3), SHORT),
    *[("RecurrentPPO", "MlpLstm", FLAT, CHOICE, SHORT | {"policy_kwargs": LSTM | more}) for more in (
        {}, {"n_lstm_layers": 2}, {"shared_lstm": True, "enable_critic_lstm": False}, {"enable_critic_lstm": False})],
    ("RecurrentPPO", "CnnLstm", IMAGE, MOVE, SHORT | {"policy_kwargs": LSTM}),
    ("RecurrentPPO", "MultiInputLstm", MIXED, CHOICE, SHORT | {"policy_kwargs": LSTM}),
    *[("PPO", "Mlp", space, CHOICE, SHORT) for space in (
        Discrete(5), MultiDiscrete([3, 4]), MultiBinary(4), Box(-1, 1, (3, 4)), Box(0, 10, (4,), np.int32))],
    *[("PPO", "Mlp", FLAT, space, SHORT) for space in (
        MultiDiscrete([3, 4]), MultiBinary(4), Box(-1, 1, (2, 2), np.float32),
        Box(np.array([-2, 0], np.float32), np.array([0, 5], np.float32)))],
    *[("PPO", "Mlp", FLAT, MOVE, SHORT | more) for more in (
        {"use_sde": True, "policy_kwargs": {"squash_output": True}}, {"policy_kwargs": {"net_arch": []}},
        {"policy_kwargs": {"share_features_extractor": False}},
        {"policy_kwargs": {"activation_fn": torch.nn.Softsign, "optimizer_class": torch.optim.RMSprop}})],
]  # fmt: skip


@pytest.mark.parametrize(("algo", "policy", "observed", "acted", "kwargs"), KINDS, ids=lambda part: str(part)[:60])
def test_every_kind_acts_as_sb3(
    tmp_path: Path, algo: str, policy: str, observed: Space[Any], acted: Space[Any], kwargs: dict[str, Any]
) -> None:
    made: Callable[..., Any] = getattr(stable_baselines3, algo, None) or getattr(sb3_contrib, algo)
    model = made(f"{policy}Policy", Sampled(observation_space=observed, action_space=acted), device="cpu", **kwargs)
    model.save(tmp_path / "model.zip")
    envs = SyncVectorEnv([lambda: Sampled(observation_space=observed, action_space=acted)] * 4)
    expert = load_expert(str(tmp_path / "model.zip"), "Any-v0", observed, acted, envs=envs)
    expert.reset(4)
    batch, start, state = batch_space(observed, 4), np.ones(4, np.bool_), None
    batch.seed(0)
    envs.reset(seed=0)
    for t in range(4):
        seen = batch.sample()
        masks = {"action_masks": np.stack(envs.call("action_masks"))} if algo == "MaskablePPO" else {}
        wanted, state = model.predict(seen, state=state, episode_start=start, deterministic=True, **masks)
        np.testing.assert_array_equal(expert.act(seen, start), wanted)
        start = np.array([t == 1, t == 1, False, False])
        for env in envs.envs:
            env.t += 1  # type: ignore[attr-defined]  # the masks change


def test_masks_must_be_given_by_the_environment(tmp_path: Path) -> None:
    env = Sampled(observation_space=FLAT, action_space=CHOICE)
    sb3_contrib.MaskablePPO("MlpPolicy", env, device="cpu", **SHORT).save(tmp_path / "model.zip")
    envs = SeparateInfos([lambda: TestingEnv(observation_space=FLAT, action_space=CHOICE)])
    expert = load_expert(str(tmp_path / "model.zip"), "Any-v0", FLAT, CHOICE, envs=envs)
    expert.reset(1)
    with pytest.raises(GatoError, match=r"has no action mask.* action_masks\(\), or info\[.action_mask.\]"):
        expert.act(np.zeros((1, *FLAT.shape), np.float32), np.ones(1, np.bool_))


class Inherits(ActorCriticPolicy):
    """Subclass without a constructor, whose name a zip does not have as plain data."""


class Makes(ActorCriticPolicy):
    """Subclass with a constructor."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def frames() -> VecFrameStack:
    return VecFrameStack(DummyVecEnv([lambda: gym.make("CartPole-v1")]), 4)


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (lambda path: PPO(Inherits, "CartPole-v1", device="cpu", **SHORT).save(path), "policies of a class of .*kinds"),
        (lambda path: PPO(Makes, "CartPole-v1", device="cpu", **SHORT).save(path), r"policies of .*kinds\.Makes"),
        (lambda path: PPO("MlpPolicy", "CartPole-v1", device="cpu", **SHORT).policy.save(path), "is the policy alone"),
        (lambda path: DQN("MlpPolicy", "CartPole-v1", device="cpu").policy.save(path), "is the policy alone"),
        (lambda path: PPO("MlpPolicy", frames(), device="cpu", **SHORT).save(path), r'--expert-wrappers .*"n": 4'),
    ],
    ids=["subclass", "subclass with a constructor", "policy", "policy of DQN", "frames"],
)  # fmt: skip
def test_what_cannot_be_read_is_not_called_damaged(tmp_path: Path, save: Callable[[Path], None], said: str) -> None:
    env = gym.make("CartPole-v1")
    save(tmp_path / "model.zip")
    with pytest.raises(GatoError, match=said) as caught:
        load_expert(str(tmp_path / "model.zip"), "CartPole-v1", env.observation_space, env.action_space)
    message = str(caught.value)
    assert "model.zip" in message
    assert "module:callable" in message
    assert "damaged" not in message
    assert "restore" not in message


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("algo", ["PPO", "A2C", "SAC", "TD3", "ARS", "TRPO", "CrossQ"])
def test_a_zip_says_whether_it_was_trained_behind_vecnormalize(
    tmp_path: Path, algo: str, double: bool, normalised: bool
) -> None:
    """Algorithms with a replay buffer show it only if normalising changed the dtype; the answer is never wrong."""
    space = Box(-1, 1, (4,), np.float64 if double else np.float32)
    envs: Any = DummyVecEnv([lambda: Sampled(observation_space=space, action_space=MOVE, length=50)])
    envs = VecNormalize(envs) if normalised else envs
    made: Callable[..., Any] = getattr(stable_baselines3, algo, None) or getattr(sb3_contrib, algo)
    off_policy = algo in ("SAC", "TD3", "CrossQ")
    model = made("MlpPolicy", envs, device="cpu", **({"learning_starts": 50} if off_policy else {}))
    model.learn(8).save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        said = trained_behind(json.loads(file.read("data")))
    assert said in (None, normalised)
    assert said is normalised or off_policy
    if normalised and double:
        assert said is True


def test_a_zip_that_was_given_other_numbers_than_its_space_has_is_refused(tmp_path: Path) -> None:
    space = Discrete(3, start=-1)
    PPO("MlpPolicy", TestingEnv(action_space=space), device="cpu", **SHORT).save(tmp_path / "model.zip")
    with pytest.raises(GatoError, match=r"counts discrete values from 0, .*start elsewhere .*--expert train"):
        load_expert(str(tmp_path / "model.zip"), "Testing-v0", TestingEnv().observation_space, space)
    PPO("MlpPolicy", TestingEnv(action_space=Discrete(3)), device="cpu", **SHORT).save(tmp_path / "other.zip")
    expert = load_expert(str(tmp_path / "other.zip"), "Testing-v0", TestingEnv().observation_space, space)
    seen = np.random.default_rng(0).normal(size=(50, 2))
    wanted, _ = PPO.load(tmp_path / "other.zip", device="cpu").predict(seen, deterministic=True)
    np.testing.assert_array_equal(expert.act(seen, np.ones(50, np.bool_)), wanted - 1)
