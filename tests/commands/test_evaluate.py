"""Evaluating many tasks: killed it goes on, what fails or is missing is named, and costs no other task its result."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from gato_agent.cli import parse
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.io.strict_json import checked_digest, with_digest
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.worker import EvaluationJob, EvaluationSettings, EvaluationWorker
from gato_agent.rollouts.collection.episode_worker import idle_heartbeat
from gato_agent.rollouts.storage.writer import Played
from tests.helpers.faulty_env import OTHER, WORKER
from tests.helpers.paths import ROOT
from tests.helpers.testing_env import TestingEnv

TASKS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "MountainCarContinuous-v0")


def returns(folder: Path) -> dict[str, tuple[float, ...]]:
    return {name: task.returns for name, task in Results.load(folder).tasks.items()}


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "gato_agent", "evaluate", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def killed_and_resumed(tmp_path: Path, tasks: tuple[str, ...], kills: int) -> None:
    settings: dict[str, Any] = {"expert": "random", "episodes": 20, "env": tasks, "workers": 2}
    line = ["--expert", "random", "--episodes", "20", "--env", *tasks, "--workers", "2"]
    rng, done, killed = random.Random(0), 0, 0
    while killed < kills and done < len(tasks):
        process = start(*line, "--out", str(tmp_path / "killed"))
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(rng.randrange(2, 4))]
        time.sleep(rng.random() * 0.3)
        process.kill()
        lines += process.communicate()[0].splitlines()
        killed += process.returncode == -signal.SIGKILL
        before, done = done, len(returns(tmp_path / "killed"))
        printed = [each for each in lines if re.match(r"\S+-v\d+: mean", each)]
        assert len(printed) <= done - before  # printed results are saved, and no task is played twice
    evaluate(EvaluateConfig(**settings, out=tmp_path / "killed"))
    evaluate(EvaluateConfig(**{**settings, "workers": 0}, out=tmp_path / "undisturbed"))
    assert returns(tmp_path / "killed") == returns(tmp_path / "undisturbed")
    assert list(returns(tmp_path / "killed")) == sorted(tasks)
    print(f"{killed} kills")


def test_killed_it_completes_what_is_missing_and_repeats_nothing(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, TASKS[:3], 1)


@pytest.mark.slow
def test_killed_at_random_moments_the_results_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    for trial in range(int(os.environ.get("KILLS", "8")) // 4):
        killed_and_resumed(tmp_path / str(trial), TASKS, 4)


def test_a_second_call_plays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EvaluateConfig(env=("CartPole-v1", "Pendulum-v1"), expert="random", episodes=2, workers=0, out=tmp_path)
    first = evaluate(config).to_json()
    monkeypatch.setattr("gato_agent.evaluation.worker.play_episodes", None)  # would fail if it were called
    assert evaluate(config).to_json() == first
    assert json.loads((tmp_path / "results.json").read_text())["summary"]["groups"]["all"]["tasks"] == 2
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 3}, r"holds results with episodes 2: repeat that, or choose another --out"),
        ({"seed": 5}, r"holds results with seed 1000000"),
        ({"expert": None}, r"holds results with expert \"random\""),
        ({"temperature": 0.5}, r"holds results with temperature 0.0"),
    ],
)
def test_results_of_other_settings_are_not_mixed(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"env": ("CartPole-v1",), "expert": "random", "episodes": 2, "out": tmp_path}
    evaluate(EvaluateConfig(**settings))
    with pytest.raises(UsageError, match=message):
        evaluate(EvaluateConfig(**{**settings, **change}))


def test_results_of_other_weights_are_not_mixed(tmp_path: Path) -> None:
    config = EvaluateConfig(env=("CartPole-v1",), episodes=1, out=tmp_path)
    evaluate(config)
    data = checked_digest((tmp_path / "results.json").read_bytes())
    (tmp_path / "results.json").write_bytes(with_digest({**data, "sha256": "0" * 64, "actor": "runs/old"}))
    with pytest.raises(UsageError, match=r"other weights, of runs/old: choose another --out for shipped weights"):
        evaluate(config)


def test_a_task_that_is_not_installed_or_not_known_is_named_and_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "minatar", None)  # as if it were not installed
    config = EvaluateConfig(
        env=("CartPole-v1", "Blackjack-v1"), suite=("minatar",), episodes=1, workers=0, out=tmp_path
    )
    results = evaluate(config)
    assert list(results.tasks) == ["CartPole-v1"]
    assert results.not_evaluated["Blackjack-v1"].startswith("the shipped weights do not know Blackjack-v1")
    assert "pip install 'gato-agent[minatar]'" in results.not_evaluated["MinAtar/Freeway-v1"]
    out = capsys.readouterr().out
    command = "pip install 'gato-agent[minatar]'"
    assert out.startswith("2 tasks with shipped weights: 1 episode a task\n")
    assert f"not evaluated: 3 tasks from MinAtar/Breakout-v1 on are not installed: {command}\n" in out
    assert out.count("not evaluated:") == 2 and "Blackjack-v1 (random)" not in out
    groups = json.loads((tmp_path / "results.json").read_text())["not_evaluated"]
    assert set(groups) == {"Blackjack-v1", "MinAtar/Breakout-v1", "MinAtar/Freeway-v1", "MinAtar/SpaceInvaders-v1"}
    with pytest.raises(UsageError, match=r"MinAtar/Freeway-v1 is not installed: pip install 'gato-agent\[minatar\]'"):
        evaluate(EvaluateConfig(env=("MinAtar/Freeway-v1",), episodes=1))
    with pytest.raises(
        UsageError, match=r"^none of 3 tasks could be evaluated: 3 tasks from MinAtar/Breakout-v1 on are"
    ):
        evaluate(EvaluateConfig(suite=("minatar",), episodes=1))
    capsys.readouterr()
    with pytest.raises(UsageError, match=r"^the shipped weights do not know Blackjack-v1"):
        evaluate(EvaluateConfig(env=("Blackjack-v1",), episodes=1, workers=0))
    assert "not evaluated" not in capsys.readouterr().out  # the error says it


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("hang", r"Worker-v0: after 1 of 3 episodes it did not finish within 5 s \(--timeout\)"),
        ("kill", r"Worker-v0: after 1 of 3 episodes it ended its worker: SIGKILL"),
        ("raise", r"Worker-v0: step 2 of seed 1 raised RuntimeError: the wheel came off"),
    ],
)
def test_a_task_that_fails_keeps_the_results_of_others(tmp_path: Path, fault: str, message: str) -> None:
    kwargs = {"fault": fault, "seed": 1}
    settings: dict[str, Any] = {
        "expert": "random", "episodes": 3, "workers": 2, "timeout": 5.0, "env_kwargs": json.dumps(kwargs),
        "out": tmp_path,
    }  # fmt: skip
    with pytest.raises(GatoError, match=f"^1 of 2 tasks failed: {message}") as caught:
        evaluate(EvaluateConfig(env=(WORKER, "tests.helpers.calm:Calm-v0"), seed=0, **settings))
    assert caught.value.exit_code == 1
    results = Results.load(tmp_path)
    assert list(results.tasks) == ["Calm-v0"]
    assert list(results.failed) == ["Worker-v0"]


def test_off_a_terminal_the_first_episode_in_this_process_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(EvaluateConfig(env=("CartPole-v1",), expert="random", episodes=10, workers=0))
    start, first, score, *_ = capsys.readouterr().out.splitlines()
    assert (start, first) == ("CartPole-v1 with random: 10 episodes a task", "CartPole-v1: 1 of 10 episodes")
    assert score.startswith("CartPole-v1: mean ")


def test_tasks_in_processes_and_here_are_the_same(tmp_path: Path) -> None:
    for workers in (0, 2):
        evaluate(EvaluateConfig(
            env=("CartPole-v1", "Pendulum-v1"), episodes=3, workers=workers, num_threads=1, out=tmp_path / str(workers)
        ))  # fmt: skip
    assert returns(tmp_path / "0") == returns(tmp_path / "2")


@pytest.mark.slow
def test_on_ray_the_results_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings: dict[str, Any] = {"env": ("CartPole-v1", "Pendulum-v1"), "expert": "random", "episodes": 4}
    evaluate(EvaluateConfig(**settings, workers=0, out=tmp_path / "here"))
    evaluate(EvaluateConfig(**settings, ray="local", out=tmp_path / "ray"))
    assert returns(tmp_path / "here") == returns(tmp_path / "ray")
    kwargs = json.dumps({"fault": "kill", "seed": 1})
    with pytest.raises(GatoError, match=r"1 of 2 tasks failed: Worker-v0: seed 0 ended its worker"):
        evaluate(EvaluateConfig(
            env=(WORKER, "tests.helpers.calm:Calm-v0"), expert="random", episodes=3, seed=0, ray="local",
            env_kwargs=kwargs, out=tmp_path / "faulty",
        ))  # fmt: skip
    assert list(Results.load(tmp_path / "faulty").tasks) == ["Calm-v0"]


def test_other_envs_of_one_module_fail_alike_and_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(GatoError, match=r"^2 of 2 tasks failed: .*Worker-v0: .*Other-v0: "):
        evaluate(EvaluateConfig(
            env=(WORKER, OTHER), expert="random", episodes=2, seed=0, workers=0,
            env_kwargs='{"fault": "raise", "seed": 0}', json=tmp_path / "r.json",
        ))  # fmt: skip
    assert set(json.loads((tmp_path / "r.json").read_text())["failed"]) == {"Worker-v0", "Other-v0"}


class Stuck(TestingEnv):
    """Cannot be closed."""

    def close(self) -> None:
        raise AttributeError("'Viewer' object has no attribute 'finish'")


gym.register("Stuck-v0", entry_point=Stuck)


def test_episodes_of_an_environment_that_fails_to_close_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """All was played by then, whoever closes it."""
    settings = EvaluationSettings(None, "random", None, 3, 0, 1)
    players = EvaluationWorker([EvaluationJob("Stuck-v0", "Stuck-v0", settings)])
    (result,) = players.play(0, [0], idle_heartbeat())
    assert isinstance(result, Played)
    assert len(json.loads(result.episode)["episodes"]) == 3


@pytest.mark.parametrize(
    ("options", "hint"),
    [("--json s.json", "--json s.json is written --out FOLDER, which has results.json"),
     ("--report page --out r", "--report is a verb: gato-agent report r --out page"),
     ("--report page", "--report is a verb: gato-agent report results --out page")],
)  # fmt: skip
def test_former_outputs_are_read_with_a_hint(options: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    parse(["evaluate", *options.split()])
    assert f"gato-agent: {hint}; the former spelling is removed in the next release" in capsys.readouterr().err
    parse(["evaluate", "--json", "-", "--out", "r"])
    assert capsys.readouterr().err == ""
