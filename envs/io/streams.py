"""Standard streams that the caller closed, or whose reader has ended."""

import os
import select
from contextlib import suppress
from typing import IO


def discard(stream: IO[str]) -> None:
    """Send all further output of an open stream to nowhere, also what it holds in its buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # a stream without a file
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def has_reader(stream: IO[str]) -> bool:
    """False if a stream is a pipe that no process reads any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return not any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # on Windows, or a stream without a file
        return True


def open_missing_streams() -> None:
    """Open standard streams that the caller closed, lest a data file takes their number and gets what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least free number
