"""Experts from the hub: the right files are asked for, what is missing is named, and no file runs code."""

import pickle
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.make import make, make_vector
from gato_agent.rollouts.experts import Expert, load_expert
from gato_agent.rollouts.hub import fetch
from gato_agent.rollouts.zoo_config import CONFIGS
from tests.rollouts.test_experts import Evil

hub = pytest.importorskip("huggingface_hub")

REPO = "sb3/a2c-Pendulum-v1"


@pytest.fixture
def envs() -> SyncVectorEnv:
    return make_vector("Pendulum-v1", 1)


@pytest.fixture
def asked(tmp_path, monkeypatch) -> list[str]:
    """Names of the files that were asked for; the hub itself is the folder `hub`, and the cache another."""
    names: list[str] = []
    remote, cache = tmp_path / "hub", tmp_path / "cache"

    def download(repo: str, file: str) -> str:
        names.append(f"{repo}/{file}")
        if not (remote / repo).is_dir():
            raise hub.errors.RepositoryNotFoundError("404: no such repository", response=Mock(headers={}))
        if not (remote / repo / file).is_file():
            raise hub.errors.EntryNotFoundError(f"404: {file}")
        target = cache / repo / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(remote / repo / file, target)
        return str(target)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    return names


@pytest.fixture
def repo(tmp_path) -> Path:
    """As rl-baselines3-zoo pushes an agent, with statistics of observations."""
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    statistics = VecNormalize(DummyVecEnv([lambda: make("Pendulum-v1")]))
    statistics.obs_rms.mean[:] = 1.5
    A2C("MlpPolicy", statistics, device="cpu").save(folder / "a2c-Pendulum-v1.zip")
    statistics.save(str(folder / "vec_normalize.pkl"))
    return folder


def load(spec: str, envs: SyncVectorEnv) -> Expert:
    return load_expert(spec, "Pendulum-v1", envs.single_observation_space, envs.single_action_space)


def test_a_repository_of_the_zoo_needs_no_file_name(repo, asked, envs):
    expert = load(f"hub:{REPO}", envs)
    statistics = ("obs_norm.npz", "vecnormalize.pkl", "vec_normalize.pkl")
    assert asked == [f"{REPO}/{name}" for name in ("a2c-Pendulum-v1.zip", *CONFIGS, *statistics)]
    assert expert.provenance["kind"] == "hub"
    assert expert.provenance["source"] == f"hub:{REPO}/a2c-Pendulum-v1.zip"
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    expert.reset(20)
    normalized = pickle.loads((repo / "vec_normalize.pkl").read_bytes()).normalize_obs(obs)
    actions = A2C.load(repo / "a2c-Pendulum-v1.zip", device="cpu").predict(normalized, deterministic=True)[0]
    np.testing.assert_array_equal(expert.act(obs, np.ones(20, np.bool_)), actions)


def test_a_file_of_another_name_or_folder_has_its_statistics_beside_it(repo, asked, envs):
    (repo / "best").mkdir()
    shutil.move(repo / "a2c-Pendulum-v1.zip", repo / "best" / "model.zip")
    path, name = fetch(f"hub:{REPO}/best/model.zip")
    assert path.is_file()
    assert name == f"hub:{REPO}/best/model.zip"
    assert asked[-1] == f"{REPO}/best/vec_normalize.pkl"
    assert not (path.parent / "vec_normalize.pkl").exists()


def test_what_is_not_there_is_named(repo, asked, envs):
    with pytest.raises(UsageError, match=rf"hub:{REPO}/ppo\.zip: {REPO} has no file ppo\.zip; name its zip"):
        load(f"hub:{REPO}/ppo.zip", envs)
    with pytest.raises(UsageError, match=r"hub:sb3/none is no repository that can be read \(RepositoryNotFoundError"):
        load("hub:sb3/none", envs)
    for spec in ("hub:", "hub:sb3", "hub:sb3//x"):
        with pytest.raises(UsageError, match="write hub:ORG/NAME, or hub:ORG/NAME/FILE"):
            load(spec, envs)
    assert len(asked) == 2


def test_without_a_network_the_cache_is_used_and_its_gaps_are_told_apart(repo, asked, envs, monkeypatch):
    load(f"hub:{REPO}", envs)
    online = hub.hf_hub_download
    known_absent = {"obs_norm.npz", "vecnormalize.pkl", *CONFIGS}

    def offline(repo_id: str, file: str) -> str:
        if file in known_absent:
            raise hub.errors.LocalEntryNotFoundError("no network")
        return online(repo_id, file)

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repo_id, file: hub._CACHED_NO_EXIST)
    load(f"hub:{REPO}", envs)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repo_id, file: None)
    with pytest.raises(GatoError, match=r"config\.yml cannot be reached .*no network"):
        load(f"hub:{REPO}", envs)


@pytest.mark.parametrize("name", ["vec_normalize.pkl", "vecnormalize.pkl"])
def test_code_in_downloaded_statistics_is_never_run(repo, asked, envs, tmp_path, name):
    (repo / name).write_bytes(pickle.dumps({"obs_rms": Evil(tmp_path / "canary")}))
    with pytest.raises(GatoError, match=rf"{name}.*posix\.system, which observation statistics do not need"):
        load(f"hub:{REPO}", envs)
    assert not (tmp_path / "canary").exists()
