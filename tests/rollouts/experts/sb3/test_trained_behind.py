"""Zips of off-policy models show what they can of VecNormalize, although its statistics are not in them."""

import base64
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.envs.errors import UsageError
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.trained_behind import trained_behind

ACTIONS = Box(-1, 1, (1,))
WIDE = Box(-np.inf, np.inf, (3,))
NARROW = Box(np.array([0, 5, -np.inf], np.float32), np.array([1, 6, np.inf], np.float32))
GOALS = Dict({"goal": Box(-5, 5, (2,)), "seen": Box(-5, 5, (2,))})
VALUES: dict[str, tuple[gym.Space[Any], Any]] = {
    "moving": (WIDE, lambda t: np.array([0.1 + t, np.sin(t), -t], np.float32)),
    "with a flag": (WIDE, lambda t: np.array([t + 0.1, 1, -t], np.float32)),
    "bounded": (NARROW, lambda t: np.array([t % 7 / 7, 5 + t % 3 / 3, t + 0.1], np.float32)),
    "goals": (GOALS, lambda t: {"goal": np.float32([1, 2]), "seen": np.float32([np.sin(t), 3])}),
    "float64": (Box(-9, 9, (2,), np.float64), lambda t: np.array([np.sin(t), 0.3])),
}
TRUTH = {  # without and with VecNormalize
    "moving": (None, None), "with a flag": (False, None), "bounded": (None, True), "goals": (False, None),
    "float64": (False, True),
}  # fmt: skip


class Moves(gym.Env[Any, Any]):
    """Observations that are a function of the step."""

    def __init__(self, name: str, actions: gym.Space[Any]) -> None:
        self.observation_space, self._of = VALUES[name]
        self.action_space, self._t = actions, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._t = 0
        return self._of(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        return self._of(self._t), 0.0, False, False, {}


def saved(path: Path, kind: Any, name: str, normalised: bool, **options: Any) -> dict[str, Any]:
    """Save a model after 30 random steps; returns the JSON of its zip."""
    actions = gym.spaces.Discrete(2) if kind is DQN else ACTIONS
    envs: Any = DummyVecEnv([lambda: Moves(name, actions)])
    envs = VecNormalize(envs, **options) if normalised else envs
    policy = "MultiInputPolicy" if name == "goals" else "MlpPolicy"
    model = kind(policy, envs, learning_starts=1000, buffer_size=100, device="cpu")
    model.learn(30)
    model.save(path)
    with zipfile.ZipFile(path) as file:
        return dict(json.loads(file.read("data")))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_what_a_zip_shows_is_true(tmp_path: Path, name: str, normalised: bool) -> None:
    for kind in (SAC, TD3, DQN):
        assert trained_behind(saved(tmp_path / "model.zip", kind, name, normalised)) is TRUTH[name][normalised]


def test_a_key_that_is_not_normalised_shows_nothing(tmp_path: Path) -> None:
    data = saved(tmp_path / "model.zip", SAC, "goals", True, norm_obs_keys=["seen"])
    assert trained_behind(data) is not False


def test_missing_statistics_are_asked_for_by_name(tmp_path: Path) -> None:
    path, space = tmp_path / "model.zip", VALUES["bounded"][0]
    saved(path, SAC, "bounded", True)
    with pytest.raises(
        UsageError, match=r"model.zip was trained with VecNormalize, .*--expert-statistics PATH, or none"
    ):
        load_expert(str(path), "Moves-v0", space, ACTIONS)
    assert load_expert(str(path), "Moves-v0", space, ACTIONS, statistics="none")


def test_statistics_beside_a_zip_without_any_are_refused(tmp_path: Path) -> None:
    path, space = tmp_path / "model.zip", VALUES["with a flag"][0]
    saved(path, SAC, "with a flag", False)
    VecNormalize(DummyVecEnv([lambda: Moves("with a flag", ACTIONS)])).save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(UsageError, match=r"was trained without VecNormalize, and .*vecnormalize.pkl lies beside it"):
        load_expert(str(path), "Moves-v0", space, ACTIONS)


def described(value: Any) -> dict[str, str]:
    return {":type:": "any", ":serialized:": base64.b64encode(pickle.dumps(value)).decode()}


@pytest.mark.parametrize(
    "value",
    [
        None, 3, "text", [], {}, {":serialized:": 3}, {":serialized:": "%%%"}, {":serialized:": ""}, described(print),
        described(np.zeros(3)), described({"a": np.zeros(2), 5: "b"}), described(np.array([None])), described(WIDE),
        described(GOALS), described(gym.spaces.Discrete(4)), described(np.full((2, 3), np.nan, np.float32)),
    ],
)  # fmt: skip
def test_any_value_is_evidence_or_none(value: Any) -> None:
    good = {"_last_obs": described(np.ones((1, 3))), "observation_space": described(NARROW)}
    good["_last_original_obs"] = described(np.ones((1, 3), np.float32))
    for key in good:
        for more in ({}, {"buffer_size": 1}):
            assert trained_behind({**good, key: value, **more}) in (True, False, None)
