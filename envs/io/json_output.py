"""JSON results of a command, in a file or on standard output."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from gato_agent.envs.files import write_files

STDOUT = Path("-")
_stdout: TextIO | None = None  # while messages go to standard error


@contextlib.contextmanager
def messages_on_stderr(path: Path | None) -> Iterator[None]:
    """Move messages to standard error if `path` is `-`, so that standard output has JSON only."""
    global _stdout
    if path != STDOUT:
        yield
        return
    _stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout = None


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write a JSON value into a file, which then exists whole, or onto standard output for `-`."""
    text = json.dumps(value, indent=indent)
    if path == STDOUT:
        print(text, file=_stdout or sys.stdout, flush=True)  # results, not a message
    else:
        write_files({path: text.encode()})
