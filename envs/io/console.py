"""Consoles without markup, and tables that fit them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.io.streams import discard

UNLIMITED = 10_000  # columns of an output that is not a terminal, so that nothing is cut for grep
_quiet = False


class PatientConsole(Console):
    """Console of a command that goes on when the reader of its output ends, as in `gato-agent collect ... | head`."""

    def on_broken_pipe(self) -> None:
        """Discard further output; rich would end the program."""
        discard(self.file)


def set_quiet(quiet: bool) -> None:
    """Silence consoles that are made after this call."""
    global _quiet
    _quiet = quiet


def plain_console(**options: Any) -> Console:
    """Make a console that prints brackets and colons of paths, ids and messages literally.

    Args:
        options: arguments of rich's Console. Without `width`, lines are not cut if the output is not a terminal.
    """
    console = PatientConsole(markup=False, emoji=False, **{**options, "quiet": _quiet or options.get("quiet", False)})
    if not console.is_terminal and "width" not in options:
        console.width = UNLIMITED
    return console


@contextmanager
def loading() -> Iterator[None]:
    """Show on a terminal that packages are loaded, which takes seconds from a cold disk."""
    console = plain_console(stderr=True)
    with console.status("loading ...") if console.is_terminal else nullcontext():
        yield


def print_line(text: str) -> None:
    """Print a message literally, in one line however narrow the terminal is."""
    plain_console(soft_wrap=True).print(text, highlight=False)


def plural(number: int, noun: str) -> str:
    """Count of things, such as 1 task or 1,200 tasks."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def fitted(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]], optional: Sequence[str], **options: Any
) -> Table:
    """Table with whole cells.

    Args:
        console: output, whose width the table fits.
        columns: headings; their cells are not wrapped.
        rows: cells, one for each column.
        optional: headings in the order in which they are left out of a narrow console.
        options: arguments of rich's Table.
    """
    for left_out in range(len(optional) + 1):
        fitting = [i for i, column in enumerate(columns) if column.header not in optional[:left_out]]
        shown = Table(*(columns[i].copy() for i in fitting), box=box.SIMPLE, padding=0, **options)
        for column in shown.columns:
            column.no_wrap = True
        for row in rows:
            shown.add_row(*(row[i] for i in fitting))
        if console.measure(shown, options=console.options.update(max_width=UNLIMITED)).maximum <= console.width:
            break
    return shown
