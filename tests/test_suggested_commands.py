"""Commands that messages suggest: each is read by the command line, and none is written anywhere else."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Discrete, Sequence

from gato_agent.cli import VERBS, main, parse
from gato_agent.commands.next_steps import next_command
from gato_agent.envs.suggested_commands import COMMANDS, suggest
from tests.helpers.paths import ROOT
from tests.helpers.testing_env import IdentityEnv

VALUES = {"folder": "my data",
    "env": "own module:ALE/Pong-v5", "out": "a folder", "data": "data", "init": "shipped", "checkpoint": "runs/it",
    "results": "results",
}  # fmt: skip
WRITTEN = re.compile(rf"gato-agent (?:{'|'.join(VERBS)}) [^`]*--?\w")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_suggested_command_is_read(name: str) -> None:
    wanted = {key: value for key, value in VALUES.items() if f"{{{key}}}" in COMMANDS[name]}
    program, *words = shlex.split(suggest(name, **wanted))
    assert program == "gato-agent"
    _, config = parse(words)
    read = repr(config)
    assert all(value in read for value in wanted.values())


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Strings of a module, without docstrings and the texts of options."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def test_no_command_is_written_elsewhere() -> None:
    modules = [path for folder in ("gato_agent", "envs", "rollouts") for path in (ROOT / folder).rglob("*.py")]
    own = [path for path in modules if path.name != "suggested_commands.py"]
    found = [f"{path}:{line}" for path in own for line, text in strings(path) if WRITTEN.search(text)]
    assert found == []
    assert WRITTEN.search("make some with `gato-agent collect --out ") and not WRITTEN.search("`gato-agent collect`")


def test_an_environment_whose_spaces_have_no_tokens_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = EnvSpec("Endless-v0", entry_point=lambda: IdentityEnv(Sequence(Discrete(3))))
    monkeypatch.setitem(gym.registry, "Endless-v0", spec)
    with pytest.raises(SystemExit) as stop:
        main(["info", "env", "Endless-v0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("gato-agent: error: Endless-v0: ")


@pytest.mark.parametrize(
    ("tasks", "options", "following"),
    [
        (["CartPole-v1"], "", ""),
        (["CartPole-v1", "ALE/Own-v0"], "", " --env MODULE:ALE/Own-v0 CartPole-v1"),
        (["Own-v0"], "--eval-env own.module:Own-v0", " --env own.module:Own-v0"),
        (["CartPole-v1"], "--eval-env own:Other-v0", ""),
    ],
)
def test_tasks_that_a_module_registers_are_evaluated_by_its_name(
    tasks: list[str], options: str, following: str, tmp_path: Path
) -> None:
    for task in tasks:
        folder = tmp_path / "data" / quote(task, safe="")
        folder.mkdir(parents=True)
        (folder / "task.json").write_text("{}")
    for data in (tmp_path / "data", folder)[: 3 - len(tasks)]:  # all tasks, and the folder of the only one
        _, config = parse(shlex.split(f"train --data '{data}' --out r {options}"))
        assert next_command("train", config) == f"gato-agent evaluate --checkpoint r --out r/results{following}"


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ("--checkpoint runs/it --expert-statistics a/b.pkl", ""),
        ("--checkpoint /runs/it", " --checkpoint /runs/it"),
        ("--checkpoint ../it --demo '/a demo'", " --checkpoint ../it --demo '/a demo'"),
        ("--checkpoint hub:org/name", " --checkpoint hub:org/name"),
        ("--expert module:function --env module:Own-v0", " --env module:Own-v0 --expert module:function"),
        ("--expert scripted", ""),
        ('--env-kwargs \'{"xml_file": "/a/b.xml"}\'', ' --env-kwargs \'{"xml_file": "/a/b.xml"}\''),
        ("--env-kwargs '{\"gravity\": 9}'", ""),
    ],
)
def test_a_report_names_again_what_no_results_file_may_name(options: str, again: str) -> None:
    _, config = parse(shlex.split(f"evaluate --out r {options}"))
    assert next_command("evaluate", config) == f"gato-agent report r --out r/report{again}"


RUN = (  # in this order, in one folder: values of the placeholders, and options that make it brief
    ("collect", {"env": "CartPole-v1"}, "--episodes 2 --workers 0"),
    ("collect by training", {"env": "Acrobot-v1"}, "--train-steps 64 --episodes 1 --workers 0 --out other"),
    ("collect into", {"env": "CartPole-v1", "out": "a folder"}, "--episodes 1 --workers 0"),
    ("collect a demonstration", {"env": "CartPole-v1", "out": "demo"}, "--workers 0"),
    ("filter", {"folder": "data"}, ""),
    ("train", {"data": "data", "out": "runs/it"}, "--steps 1 --batch-size 1"),
    ("fine-tune", {"init": "runs/it", "out": "runs/fine"}, "--steps 1 --batch-size 1"),
    ("play", {"env": "CartPole-v1", "checkpoint": "runs/it"}, "--render none"),
    ("play shipped", {"env": "CartPole-v1"}, "--render none"),
    ("evaluate", {"out": "results"}, "--env CartPole-v1 --episodes 1 --workers 0"),
    ("evaluate into", {"env": "CartPole-v1", "out": "one"}, "--episodes 1 --workers 0"),
    ("evaluate checkpoint", {"checkpoint": "runs/it", "out": "more"}, "--episodes 1 --workers 0"),
    ("evaluate task", {"env": "CartPole-v1", "checkpoint": "runs/fine", "out": "task"}, "--episodes 1 --workers 0"),
    ("report", {"results": "results", "out": "page"}, "--no-videos"),
    ("tasks", {}, ""),
    ("tasks of a checkpoint", {"checkpoint": "runs/it"}, ""),
)


@pytest.mark.slow
def test_each_suggested_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(name for name, *_ in RUN) == sorted(COMMANDS)
    monkeypatch.chdir(tmp_path)
    for name, values, brief in RUN:
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(f"{suggest(name, **values)} {brief}")[1:])
        assert stop.value.code == 0, name


def test_data_removed_during_a_training_changes_nothing_else(tmp_path: Path) -> None:
    _, config = parse(["train", "--data", str(tmp_path / "gone"), "--out", "r"])
    assert next_command("train", config) == "gato-agent evaluate --checkpoint r --out r/results"


def test_extras_in_messages_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    modules = [path for folder in ("gato_agent", "envs", "rollouts") for path in (ROOT / folder).rglob("*.py")]
    named = {name for path in modules for _, text in strings(path) for name in re.findall(r"gato-agent\[(\w+)\]", text)}
    assert {"ray", "minari"} <= named - {"NAME"} <= set(extras)
