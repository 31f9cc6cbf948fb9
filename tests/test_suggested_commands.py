"""Commands that messages suggest: each is read by the command line, and none is written anywhere else."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Discrete, Sequence

from gato_agent.cli import VERBS, main, parse
from gato_agent.envs.suggested_commands import COMMANDS, suggest
from tests.helpers.paths import ROOT
from tests.helpers.testing_env import IdentityEnv

VALUES = {
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
