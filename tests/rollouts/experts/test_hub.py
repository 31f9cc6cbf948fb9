"""Experts from the hub: the right files are requested, missing ones are named, and no file runs code."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.make import make, make_vector
from gato_agent.rollouts.experts.expert import Expert
from gato_agent.rollouts.experts.hub import fetch
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.zoo_config import CONFIGS
from tests.helpers.hub_server import Hub, serving
from tests.helpers.sb3_zips import RunsCommand

pytest.importorskip("huggingface_hub")

REPO = "sb3/a2c-Pendulum-v1"
STATISTICS = ("obs_norm.npz", "vecnormalize.pkl", "vec_normalize.pkl")


@pytest.fixture
def envs() -> SyncVectorEnv:
    return make_vector("Pendulum-v1", 1)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    with serving(tmp_path / "hub") as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture
def repo(hub) -> Path:
    """Repository of an agent with statistics, as rl-baselines3-zoo pushes it."""
    folder = hub.root / "models" / REPO
    folder.mkdir(parents=True)
    statistics = VecNormalize(DummyVecEnv([lambda: make("Pendulum-v1")]))
    statistics.obs_rms.mean[:] = 1.5
    A2C("MlpPolicy", statistics, device="cpu").save(folder / "a2c-Pendulum-v1.zip")
    statistics.save(str(folder / "vec_normalize.pkl"))
    return folder


def load(spec: str, envs: SyncVectorEnv) -> Expert:
    return load_expert(spec, "Pendulum-v1", envs.single_observation_space, envs.single_action_space)


def test_a_repository_of_the_zoo_needs_no_file_name(repo, hub, envs):
    expert = load(f"hub:{REPO}", envs)
    assert hub.files() == [f"{REPO}/{name}" for name in ("a2c-Pendulum-v1.zip", *CONFIGS, *STATISTICS)]
    assert expert.provenance["kind"] == "hub"
    assert expert.provenance["source"] == f"hub:{REPO}/a2c-Pendulum-v1.zip"
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    expert.reset(20)
    normalized = pickle.loads((repo / "vec_normalize.pkl").read_bytes()).normalize_obs(obs)
    actions = A2C.load(repo / "a2c-Pendulum-v1.zip", device="cpu").predict(normalized, deterministic=True)[0]
    np.testing.assert_array_equal(expert.act(obs, np.ones(20, np.bool_)), actions)


def test_a_fresh_process_collects_an_expert_of_the_hub(repo, hub, tmp_path):
    """A process without the package's modules, which it imports lazily."""
    words = ("-m", "gato_agent", "collect", "--env", "Pendulum-v1", "--expert", f"hub:{REPO}", "--episodes", "1")
    done = hub.run(tmp_path / "other", *words, "--workers", "0", "--out", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    assert '"kind": "hub"' in (tmp_path / "data" / "Pendulum-v1" / "task.json").read_text()
    missing = hub.run(tmp_path / "other", *words[:6], "hub:sb3/none", "--out", tmp_path / "data")
    assert missing.returncode == 2
    assert "hub:sb3/none is no repository that can be read (RepositoryNotFoundError" in missing.stderr


def test_a_file_of_another_name_or_folder_has_its_statistics_beside_it(repo, hub, envs):
    (repo / "best").mkdir()
    shutil.move(repo / "a2c-Pendulum-v1.zip", repo / "best" / "model.zip")
    path, name = fetch(f"hub:{REPO}/best/model.zip")
    assert path.is_file()
    assert name == f"hub:{REPO}/best/model.zip"
    assert hub.files()[-1] == f"{REPO}/best/vec_normalize.pkl"
    assert not (path.parent / "vec_normalize.pkl").exists()


def test_what_is_not_there_is_named(repo, hub, envs):
    with pytest.raises(UsageError, match=rf"hub:{REPO}/ppo\.zip: {REPO} has no file ppo\.zip; name its zip"):
        load(f"hub:{REPO}/ppo.zip", envs)
    with pytest.raises(UsageError, match=r"hub:sb3/none is no repository that can be read \(RepositoryNotFoundError"):
        load("hub:sb3/none", envs)
    with pytest.raises(UsageError, match=r"hub:sb3/a b is no repository that can be read \(HFValidationError"):
        load("hub:sb3/a b", envs)
    for spec in ("hub:", "hub:sb3", "hub:sb3//x"):
        with pytest.raises(UsageError, match="write hub:ORG/NAME, or hub:ORG/NAME/FILE"):
            load(spec, envs)
    assert len(hub.files()) == 2


def test_without_a_network_the_cache_is_used_and_its_gaps_are_told_apart(repo, hub, envs, tmp_path, monkeypatch):
    load(f"hub:{REPO}", envs)
    count = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load(f"hub:{REPO}", envs)
    assert len(hub.requests) == count
    shutil.rmtree(next((tmp_path / "cache").glob("models--*/.no_exist")))  # nothing says that there are no statistics
    with pytest.raises(GatoError, match=r"config\.yml cannot be reached \(LocalEntryNotFoundError: "):
        load(f"hub:{REPO}", envs)


def test_a_hub_that_is_out_of_order_is_said(repo, hub, envs):
    hub.broken = 403
    with pytest.raises(GatoError, match=rf"hub:{REPO}/a2c-Pendulum-v1\.zip cannot be reached .*: is there a network\?"):
        load(f"hub:{REPO}", envs)


@pytest.mark.parametrize("name", ["vec_normalize.pkl", "vecnormalize.pkl"])
def test_code_in_downloaded_statistics_is_never_run(repo, hub, envs, tmp_path, name):
    (repo / name).write_bytes(pickle.dumps({"obs_rms": RunsCommand(tmp_path / "canary")}))
    with pytest.raises(GatoError, match=rf"{name}.*posix\.system, which observation statistics do not need"):
        load(f"hub:{REPO}", envs)
    assert not (tmp_path / "canary").exists()
