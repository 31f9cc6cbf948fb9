"""Commands with several processes save first when they are interrupted, and the same command goes on."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gato_agent.evaluation.results import Results
from gato_agent.rollouts.storage.episode_store import open_stores
from tests.helpers.interrupts import To, interrupted
from tests.helpers.paths import ROOT

SLOW = "tests.helpers.slow_env:Slow-v0"


def finished(line: str, cwd: Path) -> str:
    """Standard output of a command that ends well."""
    command = [sys.executable, "-m", "gato_agent", *shlex.split(line)]
    done = subprocess.run(command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("to", ["group", pytest.param("parent", marks=pytest.mark.slow)])
def test_collect_saves_complete_episodes_and_goes_on(to: To, tmp_path: Path) -> None:
    line = f"collect --env {SLOW} --expert random --episodes 40 --workers 2 --out d"
    _, err = interrupted(line, r"Slow-v0: \d", to, tmp_path)
    assert "complete episodes are saved in d, and the same command goes on" in err
    (store,) = open_stores(tmp_path / "d")
    saved = len(store.indices())
    assert 0 < saved < 40
    out = finished(line, tmp_path)
    assert f"Slow-v0: {saved} of 40 episodes are already collected" in out
    (store,) = open_stores(tmp_path / "d")
    assert store.indices() == list(range(40))
    finished(f"{line}2", tmp_path)
    ours, theirs = ((tmp_path / name / "Slow-v0") for name in ("d", "d2"))
    assert [path.name for path in sorted(ours.iterdir())] == [path.name for path in sorted(theirs.iterdir())]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["group", "parent"])
def test_evaluate_saves_evaluated_tasks_and_goes_on(to: To, tmp_path: Path) -> None:
    envs = f"CartPole-v1 MountainCar-v0 {SLOW}"
    line = f"evaluate --env {envs} --expert random --episodes 20 --workers 2 --out r"
    _, err = interrupted(line, "CartPole-v1: mean", to, tmp_path)
    assert "evaluated tasks are saved in r, and the same command goes on" in err
    saved = Results.load(tmp_path / "r").tasks
    assert "CartPole-v1" in saved and "Slow-v0" not in saved
    assert f"{len(saved)} of 3 tasks are evaluated already" in finished(line, tmp_path)
    results = Results.load(tmp_path / "r").tasks
    assert results.keys() == {"CartPole-v1", "MountainCar-v0", "Slow-v0"}
    assert all(results[task].returns == saved[task].returns for task in saved)
