"""Standard streams that are closed, full, or whose reader has ended: commands do their work all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gato_agent.rollouts.storage.verify import verify
from tests.helpers.paths import ROOT

COLLECT = "collect --env CartPole-v1 --expert random --episodes 3 --workers 0 --out out"


def run(folder: Path, arguments: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """A command in a shell, whose exit code is that of the command."""
    command = f"set -o pipefail; {sys.executable} -m gato_agent {arguments} {redirection}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("redirection", ["| true", ">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_episodes_are_complete_whoever_reads_the_messages(tmp_path: Path, redirection: str) -> None:
    done = run(tmp_path, COLLECT, redirection)
    assert (done.returncode, done.stderr) == (0, "")
    assert verify(tmp_path / "out") == (3, [])


@pytest.mark.parametrize(
    ("arguments", "code"), [("info tasks --suite classic", 0), ("info tasks --json -", 1), ("--version", 1)]
)
def test_a_reader_that_ends_is_no_error_of_an_environment(tmp_path: Path, arguments: str, code: int) -> None:
    done = run(tmp_path, arguments, "2>errors | true")
    assert done.returncode in (0, code)  # 0 where all was written before the reader ended
    assert "error" not in (tmp_path / "errors").read_text()


def test_a_full_device_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, COLLECT, "> /dev/full")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert verify(tmp_path / "out") == (3, [])


def test_a_current_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    command = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m gato_agent {COLLECT}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "gato-agent: error: the current folder no longer exists: change to another one\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "utf-16"])
def test_any_name_can_be_printed(tmp_path: Path, encoding: str) -> None:
    name = os.fsdecode(b"caf\xe9 \xff")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "gato_agent", *COLLECT.split()[:-1], name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert verify(tmp_path / name) == (3, [])
