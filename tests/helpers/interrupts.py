"""Commands in processes of their own that are interrupted, as by Ctrl-C or by a signal to one process."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

from tests.helpers.paths import ROOT

To = Literal["group", "parent"]


def interrupted(line: str, after: str, to: To, cwd: Path) -> tuple[str, str]:
    """Standard output and error of a command that gets SIGINT once a line of its output matches `after`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-u", "-m", "gato_agent", *shlex.split(line)]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_interruptible,
    )
    assert process.stdout is not None
    begun: list[str] = []
    while not begun or not re.match(after, begun[-1]):
        begun.append(process.stdout.readline())
        assert begun[-1], (begun, process.communicate())
    os.kill(-process.pid if to == "group" else process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "interrupted" in err, err
    return "".join(begun) + out, err


def _interruptible() -> None:
    """Take SIGINT as a terminal's programs do: those that a shell starts in the background ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
