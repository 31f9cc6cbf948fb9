"""Standard streams that the caller closed, whose reader has ended, or that cannot take every text."""

import io
import os
import select
import sys
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


def prepare_streams() -> None:
    """Open standard streams that the caller closed, and let standard output take any text.

    Else a data file takes the number of a closed stream, and gets what libraries print; and the name of a file that is
    not Unicode, or a line in a table on an ASCII terminal, ends the command when it is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least free number
    output = sys.stdout
    if isinstance(output, io.TextIOWrapper) and output.errors == "strict":
        unicode = output.encoding.lower().replace("-", "") == "utf8"
        output.reconfigure(errors="surrogateescape" if unicode else "backslashreplace")
