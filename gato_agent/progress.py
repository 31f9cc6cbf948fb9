"""A progress bar on a terminal, a line now and then elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

EVERY = 10.0  # seconds between lines where the output is no terminal


class Progress:
    """Shows steps done, named figures and the time left.

    Args:
        total: number of steps.
        console: where to show them.
        title: stands before each line.
    """

    def __init__(self, total: int, console: Console, title: str = "") -> None:
        self.total, self.console, self.title = total, console, title
        columns = (BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TextColumn("{task.description}"),
                   TimeRemainingColumn())  # fmt: skip
        self._bar = RichProgress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total)
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, **figures: str) -> None:
        """Show that `done` steps are done, and the latest figures."""
        text = (
            self.title
            + "  " * bool(self.title)
            + "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        )
        self._bar.update(self._task, completed=done, description=text)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self._printed > EVERY or done == self.total):
            self._printed = now
            self.console.print(f"{done}/{self.total}  {text}", highlight=False)
