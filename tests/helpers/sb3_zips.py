"""Zips of SB3 that say, or do not say, that they were trained behind VecNormalize, and what lies beside them."""

import atexit
import csv
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.experts.load import load_expert
from tests.helpers.paths import ROOT

SHARED = ROOT.parent / "shared" / "experts"
MANIFEST = list(csv.DictReader((SHARED / "manifest.csv").open())) if SHARED.is_dir() else []
needs_zips = pytest.mark.skipif(not MANIFEST, reason="the experts' zips are not here")
each_zip = pytest.mark.parametrize("row", [pytest.param(row, id=row["env"]) for row in MANIFEST])
SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu"}
ENV = "Pendulum-v1"
PENDULUM = gym.make(ENV)
SPACES = PENDULUM.observation_space, PENDULUM.action_space
OBSERVATIONS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) * 5


class RunsCommand:
    """An object that makes the file `canary` when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def statistics(mean: float, **kwargs: Any) -> VecNormalize:
    envs = VecNormalize(DummyVecEnv([lambda: gym.make(ENV)]), **kwargs)
    envs.obs_rms.mean[:], envs.obs_rms.var[:], envs.training = mean, 4.0, False  # type: ignore[union-attr]
    return envs


@cache
def made() -> dict[str, Path]:
    """Zips that say that they were trained behind VecNormalize, that they were not, or nothing; and statistics."""
    folder = Path(mkdtemp(prefix="zips"))
    atexit.register(shutil.rmtree, folder)
    for name, behind in (("normalised", True), ("plain", False)):
        envs = DummyVecEnv([lambda: gym.make(ENV)])
        PPO("MlpPolicy", VecNormalize(envs) if behind else envs, **SMALL).learn(16).save(folder / f"{name}.zip")
    PPO("MlpPolicy", ENV, **SMALL).save(folder / "silent.zip")
    for mean in (1, 2):
        statistics(mean).save(str(folder / f"{mean}.pkl"))
    return {path.name: path for path in folder.iterdir()}


def put(name: str, target: Path) -> Path:
    """Copy one of the files to a place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(made()[name], target)
    return target


def load(path: Path | str, **kwargs: Any) -> Any:
    return load_expert(str(path), ENV, *SPACES, **kwargs)


def acts_behind(expert: Any, zip_: Path, mean: float | None) -> bool:
    """True if an expert acts as SB3 does behind statistics of that mean, or none."""
    model = PPO.load(zip_, device="cpu")
    seen = OBSERVATIONS if mean is None else statistics(mean).normalize_obs(OBSERVATIONS)
    expert.reset(20)
    return np.array_equal(expert.act(OBSERVATIONS, np.ones(20, np.bool_)), model.predict(seen, deterministic=True)[0])


def refusal(call: Callable[..., object], *args: Any) -> str:
    """The message of a refusal; nothing where there is none."""
    try:
        call(*args)
    except GatoError as error:
        return str(error)
    return ""
