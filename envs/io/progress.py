"""Progress of a long job: a bar on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

Update = Callable[[int, str], None]
WIDE = 100  # columns of a terminal that has room for more than bar, count and remaining time


def bar_columns(console: Console, title: str, unit: str) -> list[ProgressColumn]:
    """Columns of a progress bar: title, bar, count and remaining time; on wide consoles unit and description too.

    Args:
        console: output.
        title: format of the title, such as `{task.fields[title]}`.
        unit: name of the counted items, in the plural.
    """
    texts = [unit, "{task.description}"] if console.width >= WIDE else []
    more = [TextColumn(text, markup=False) for text in texts]
    return [TextColumn(title, markup=False), BarColumn(), MofNCompleteColumn(), *more, TimeRemainingColumn()]


def remaining(began: float, done: int, left: int) -> str:
    """Estimated time as h:mm:ss for `left` items, after `done` items since the monotonic time `began`."""
    return clock((time.monotonic() - began) * left / done)


@contextlib.contextmanager
def progress(
    console: Console, title: str, total: int, unit: str, done: int = 0, every: float = 0.0
) -> Iterator[Update]:
    """Yield a function `update(done, text)` that shows progress.

    Args:
        console: output; if it is no terminal, an update prints one line, with the remaining time.
        title: name of the job.
        total: number of items.
        unit: the items' name, in the plural.
        done: number of items that are done at the start; the remaining time is estimated from the others.
        every: least number of seconds between two lines, except before the last one.
    """
    columns = bar_columns(console, "{task.fields[title]}", unit)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", title=title, total=total, completed=done)
        began = printed = time.monotonic()

        def update(now: int, text: str) -> None:
            nonlocal printed
            bar.update(task, completed=now, description=text)
            if not console.is_terminal and (now == total or time.monotonic() - printed >= every):
                printed = time.monotonic()
                left = f", {remaining(began, now - done, total - now)} left" if done < now < total else ""
                console.print(f"{title}: {now:,} of {total:,} {unit}, {text}{left}", highlight=False, soft_wrap=True)

        yield update


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:05:09."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
