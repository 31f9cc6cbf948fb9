"""docs/your-own-environment.md: its commands run as they stand there, and end with an agent that has learned."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env

from gato_agent.envs.errors import UsageError
from gato_agent.envs.tasks.packages import import_named
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "your-own-environment.md"


def commands() -> list[str]:
    """The lines of the first block of shell."""
    (block, *_) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return [line for line in block.splitlines() if line]


def test_the_environment_of_the_example_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from docking import Docking  # type: ignore[import-not-found]

    check_env(Docking(), skip_render_check=True)


def test_the_options_on_the_page_are_there() -> None:
    from gato_agent.cli import parse

    verbs = [line.split()[1:] for line in commands() if line.startswith("gato-agent ")]
    assert {verb for verb, *_ in verbs} == {"collect", "train", "evaluate"}
    for words in verbs:
        parse(words)


@pytest.mark.slow
def test_the_commands_of_the_page_make_an_agent(tmp_path: Path) -> None:
    """It is more than half way from a random player to the expert."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gato-agent"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gato_agent "$@"\n')
    program.chmod(0o755)
    script = "\n".join(["set -eu", *commands()]).replace("PYTHONPATH=examples", f"PYTHONPATH=examples:{ROOT}")
    paths = {"PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, **paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (task,) = json.loads((tmp_path / "results" / "results.json").read_text())["tasks"]
    assert task["random"] < task["expert"]
    assert task["normalized"] > 0.5, task


def test_a_module_of_the_working_folder_is_found_after_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", ".")])
    (tmp_path / "my_local_env.py").write_text("NAME = 'mine'\n")
    (tmp_path / "json.py").write_text("raise AssertionError('shadows an installed module')\n")
    assert import_named("json", "json:Env-v0").__name__ == "json" and str(tmp_path) not in sys.path
    assert import_named("my_local_env", "my_local_env:Env-v0").NAME == "mine" and sys.path[-1] == str(tmp_path)
    with pytest.raises(UsageError, match=r"^none_such:Env-v0: no module named none_such; install it or add its"):
        import_named("none_such", "none_such:Env-v0")
