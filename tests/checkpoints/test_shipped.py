"""The weights in the package play what the README says, and its snippets run."""

import re
from pathlib import Path

import numpy as np
import pytest

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.tasks.task import catalogue, find
from gato_agent.evaluation.metrics import FIRST_SEED, normalized
from gato_agent.evaluation.worker import play_episodes
from gato_agent.inference.make_agent import make_agent_and_envs
from tests.helpers.paths import ROOT

README = ROOT / "README.md"
TASKS = (
    "Acrobot-v1",
    "CartPole-v1",
    "LunarLander-v3",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
)


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return Checkpoint.load(None)


def mean_return(checkpoint: Checkpoint, task: str, episodes: int) -> float:
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    with make_agent_and_envs(checkpoint, task, episodes) as (agent, envs):
        return float(np.mean([played.total for played in play_episodes(agent, envs, seeds, task)]))


def test_shipped_weights_know_the_catalogue(shipped: Checkpoint) -> None:
    assert set(shipped.tasks) == set(catalogue())


def test_shipped_weights_balance_the_pole_and_walk_along_the_cliff(shipped: Checkpoint) -> None:
    assert mean_return(shipped, "CartPole-v1", 50) >= 470
    assert mean_return(shipped, "CliffWalking-v1", 10) == -13


def test_shipped_weights_read_grids(shipped: Checkpoint) -> None:
    pytest.importorskip("minigrid")
    assert mean_return(shipped, "BabyAI-GoToRedBallNoDists-v0", 20) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_shipped_weights_are_near_the_expert(shipped: Checkpoint, task: str) -> None:
    mean, known = mean_return(shipped, task, 50), find(task)
    assert known is not None and known.random is not None and known.expert is not None
    score = normalized(mean, known.random.mean, known.expert.mean)
    assert score is not None and score >= 0.9


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README.read_text(), re.S))
def test_readme_snippets_run(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
