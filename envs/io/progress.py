"""How far a long job is: a bar on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Update = Callable[[int, str], None]


@contextlib.contextmanager
def progress(
    console: Console, title: str, total: int, unit: str, done: int = 0, every: float = 0.0
) -> Iterator[Update]:
    """Yield a function of how many of `total` are done by now, and of what else is to be shown.

    Args:
        console: where to; off a terminal calls print one line each.
        title: what is being worked on.
        total: how many there are.
        unit: what they are, in the plural.
        done: how many of them were done before; the time left is judged by the others.
        every: seconds that must have passed before the next line, but for the last one.
    """
    columns = (
        TextColumn("{task.fields[title]}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn(unit, markup=False), TextColumn("{task.description}", markup=False), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", title=title, total=total, completed=done)
        printed = time.monotonic()

        def update(now: int, text: str) -> None:
            nonlocal printed
            bar.update(task, completed=now, description=text)
            if not console.is_terminal and (now == total or time.monotonic() - printed >= every):
                printed = time.monotonic()
                console.print(f"{title}: {now:,} of {total:,} {unit}, {text}", highlight=False, soft_wrap=True)

        yield update
