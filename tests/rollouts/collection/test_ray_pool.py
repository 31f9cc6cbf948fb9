"""Episodes on Ray are the same bit for bit, and a fault fails one seed."""

import json

import pytest

from gato_agent.envs.errors import EnvironmentFault, UsageError
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from tests.helpers.episodes import contents, indices
from tests.helpers.faulty_env import OTHER, WORKER
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def ray(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return pytest.importorskip("ray")


def test_the_same_files_as_without_it(tmp_path):
    settings = {"env": ("CartPole-v1", "Pendulum-v1"), "expert": "catalogue", "noise": True, "episodes": 8}
    collect(CollectConfig(**settings, workers=0, out=tmp_path / "here"))
    collect(CollectConfig(**settings, ray="local", out=tmp_path / "ray"))
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("sys.exit", "step 2 of seed 3 raised SystemExit: 7"),
        ("raise", "step 2 of seed 3 raised RuntimeError: the wheel came off"),
        ("hang", r"step 2 of seed 3 did not finish within 2 s \(--timeout\)"),
        ("kill", "seed 3 ended its worker: "),
    ],
)
def test_a_fault_costs_one_seed(tmp_path, fault, said):
    kwargs = json.dumps({"fault": fault, "seed": 3})
    with pytest.raises(EnvironmentFault, match=f"Worker-v0: {said}"):
        collect(CollectConfig(
            env=(WORKER, OTHER), expert="random", episodes=8, ray="local", workers=2, timeout=2.0, env_kwargs=kwargs,
            out=tmp_path,
        ))  # fmt: skip
    assert indices(tmp_path) == {"Other-v0": [0, 1, 2, 4, 5, 6, 7], "Worker-v0": [0, 1, 2, 4, 5, 6, 7]}


def test_more_workers_than_cpus_are_not_waited_for(tmp_path):
    collect(CollectConfig(env=("CartPole-v1",), expert="random", episodes=3, ray="local", workers=64, out=tmp_path))
    assert indices(tmp_path) == {"CartPole-v1": [0, 1, 2]}


def test_no_cluster_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"--ray auto: no cluster there: ConnectionError"):
        collect(CollectConfig(env=("CartPole-v1",), expert="random", ray="auto", out=tmp_path))
