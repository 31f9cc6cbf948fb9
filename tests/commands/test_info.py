"""`gato-agent info tasks`: every task with what is installed, its expert and known scores."""

import json
import sys
from pathlib import Path

import pytest

from gato_agent.cli import run
from gato_agent.commands import catalogue as verb
from gato_agent.commands.catalogue import EnvsConfig, entry, envs
from gato_agent.envs.errors import UsageError
from gato_agent.envs.spaces.flatten import space_from_json
from gato_agent.envs.tasks.task import Score, Task, catalogue, find


def test_every_task_is_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["info", "tasks"]) == 0
    shown = capsys.readouterr().out
    assert f"{len(catalogue())} tasks" in shown
    assert all(env_id in shown for env_id in catalogue())


def test_a_family_is_listed_alone_and_its_spaces_are_written(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    assert [task.suite for task in envs(EnvsConfig(suite=("classic",), json=file))] == ["classic"] * 5
    tasks = {task["task"]: task for task in json.loads(file.read_text())["tasks"]}
    pole = tasks["CartPole-v1"]
    known = find("CartPole-v1")
    assert known is not None and known.random is not None and known.expert is not None
    assert space_from_json(pole["observation_space"]).shape == (4,)
    assert space_from_json(pole["action_space"]).n == 2
    assert (pole["family"], pole["tokens_per_timestep"], pole["installed"], pole["extra"]) == ("classic", 6, True, None)
    assert set(pole["expert"]) == {"kind", "source"} and pole["expert"]["kind"] == "catalogue"
    for name, score in (("random", known.random), ("expert_score", known.expert)):
        assert (pole[name]["mean"], pole[name]["std"], pole[name]["episodes"]) == (score.mean, score.std, 100)


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)  # importing it fails
    task = Task("BabyAI-No-v0", "babyai", extra="minigrid", expert_kind="scripted")
    output = entry(task)
    assert (output["installed"], output["extra"], output["expert"]) == (False, "minigrid", None)
    assert (output["random"], output["expert_score"]) == (None, None)
    assert verb.spaces(task) == {"observation_space": None, "action_space": None}


def test_an_expert_that_is_not_shipped_is_not_at_hand() -> None:
    score = Score(1.0, 0.0, 2, (5, 6), "by hand", {}, success=0.5)
    task = Task("Nobody-v0", "classic", expert_kind="catalogue", random=score)
    assert entry(task)["expert"] is None
    assert entry(task)["random"]["success"] == 0.5


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(UsageError, match=r"^--suite clasic: no such family; there are atari, babyai, "):
        envs(EnvsConfig(suite=("clasic",)))
