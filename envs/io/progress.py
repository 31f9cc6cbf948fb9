"""Progress of long jobs: bars on a terminal, plain lines elsewhere."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

Update = Callable[[int, str], None]
WIDE = 100  # columns of a terminal that has room for more than bar, count and remaining time
PRINT_EVERY = 10.0  # seconds between two lines where the output is no terminal
BAR, ETA = 10, 8  # columns of the shortest bar beside a title, and of the remaining time


class Title(ProgressColumn):
    """Title of a job as far as bar, count and remaining time leave room: whole, its part before a colon, or nothing."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """Title of a job for the width of the console."""
        title = self._title.format(task=task)
        room = self._console.width - BAR - ETA - 2 * len(str(task.total)) - 4
        return Text(next((text for text in (title, title.partition(":")[0]) if len(text) <= room), ""))


def bar_columns(console: Console, title: str, unit: str) -> list[ProgressColumn]:
    """Columns of a progress bar: title, bar, count and remaining time; on wide consoles unit and description too.

    Args:
        console: output.
        title: format of the title, such as `{task.fields[title]}`.
        unit: name of the counted items, in the plural.
    """
    texts = [unit, "{task.description}"] if console.width >= WIDE else []
    more = [TextColumn(text, markup=False) for text in texts]
    count = MofNCompleteColumn(table_column=Column(no_wrap=True))
    left = TimeRemainingColumn(table_column=Column(no_wrap=True))
    return [Title(console, title), BarColumn(), count, *more, left]


def remaining(began: float, done: int, left: int) -> str:
    """Estimated time as h:mm:ss for `left` items, after `done` items since the monotonic time `began`."""
    return clock((time.monotonic() - began) * left / done)


class Lines:
    """Lines of long jobs where the output is no terminal; nothing on a terminal.

    The first result has a line at once, and others at most one in PRINT_EVERY seconds.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._printed = console, -math.inf

    def start(self, text: str) -> None:
        """Print that jobs start."""
        with contextlib.suppress(OSError):  # of a full disk, which ends the job when something is written
            self._print(text)

    def add(self, text: str, *, last: bool = False) -> None:
        """Print a result, if it is the last of its job or a line is due."""
        if last or time.monotonic() - self._printed >= PRINT_EVERY:
            self._printed = time.monotonic()
            self._print(text)

    def _print(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)


@dataclass
class Bar:
    """Progress of one job: its title, the number of its items, and those that are done."""

    title: str
    total: int
    done: int = 0
    bar: TaskID | None = None


class Bars:
    """Progress of jobs that run at the same time, as a context: a bar of each on a terminal, plain lines elsewhere.

    On a terminal several jobs have a bar each while they run, below one of them all. The remaining time of a line is
    that of all jobs, estimated from the items that were done meanwhile.

    Args:
        console: output.
        jobs: at least one; `update` changes them.
        unit: name of the items, in the plural.
        start: line with which the jobs start where the output is no terminal; empty for none.
    """

    def __init__(self, console: Console, jobs: Sequence[Bar], unit: str, start: str = "") -> None:
        self._console, self._jobs, self._unit, self._start = console, jobs, unit, start
        self._began, self._lines = time.monotonic(), Lines(console)
        self._total, self._before = sum(job.total for job in jobs), sum(job.done for job in jobs)
        columns = bar_columns(console, "{task.fields[title]}", unit)
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._several = len(jobs) > 1
        self._all = self._bars.add_task(
            "", title="all", total=self._total, completed=self._before, visible=self._several
        )
        if not self._several:
            self._show(jobs[0], "")

    def __enter__(self) -> Self:
        self._bars.__enter__()
        if self._start:
            self._lines.start(self._start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.__exit__(kind, error, at)

    def update(self, at: int, done: int, text: str) -> None:
        """Show that so many items of job `at` are done, with a text."""
        job = self._jobs[at]
        job.done = done
        if self._console.is_terminal:
            self._show(job, text)
        else:
            line = f"{job.title}: {done:,} of {job.total:,} {self._unit}, {text}{self._left()}"
            self._lines.add(line, last=done == job.total)

    def describe(self, text: str) -> None:
        """Show a text at the bar of all jobs."""
        self._bars.update(self._all, completed=sum(job.done for job in self._jobs), description=text)

    def _show(self, job: Bar, text: str) -> None:
        """Update the bar of a job, which is shown while the job runs."""
        if job.bar is None:
            job.bar = self._bars.add_task("", title=job.title, total=job.total)
        self._bars.update(job.bar, completed=job.done, description=text)
        if job.done == job.total and self._several:
            self._bars.remove_task(job.bar)

    def _left(self) -> str:
        """Text of the remaining time; empty where it is not known."""
        done = sum(job.done for job in self._jobs)
        new, left = done - self._before, self._total - done
        return f", {remaining(self._began, new, left)} left" if new > 0 and left > 0 else ""


@contextlib.contextmanager
def progress(console: Console, title: str, total: int, unit: str, done: int = 0, start: str = "") -> Iterator[Update]:
    """Yield a function `update(done, text)` that shows the progress of one job.

    Args:
        console: see `Bars`.
        title: name of the job.
        total: number of items.
        unit: see `Bars`.
        done: number of items that are done at the start.
        start: see `Bars`.
    """
    with Bars(console, [Bar(title, total, done)], unit, start) as bars:
        yield lambda now, text: bars.update(0, now, text)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:05:09."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
