"""Progress of a collection: a bar for each task that is being played on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from gato_agent.envs.io.progress import bar_columns, remaining
from gato_agent.rollouts.storage.writer import Played


@dataclass
class Row:
    """Progress of one task: episodes in total and on disk, and the catalogue's expert score as text."""

    env_id: str
    total: int
    done: int
    score: str
    returns: list[float] = field(default_factory=list)
    bar: TaskID | None = None


class Report:
    """Display of the progress of all tasks; a context manager."""

    def __init__(self, console: Console, rows: Sequence[Row]) -> None:
        self._console, self._rows = console, rows
        self._began, self._steps, self._new = time.monotonic(), 0, 0
        self._missing = sum(row.total - row.done for row in rows)
        columns = bar_columns(console, "{task.fields[name]}", "episodes")
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._all = self._bars.add_task(
            "", name="all", total=sum(row.total for row in rows), completed=sum(row.done for row in rows),
            visible=len(rows) > 1,
        )  # fmt: skip
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._bars)
        for row in self._rows:
            if row.done:
                text = f"{row.env_id}: {row.done:,} of {row.total:,} episodes are already collected"
                self._console.print(text, highlight=False, soft_wrap=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def __call__(self, episodes: Sequence[Played]) -> None:
        """Add episodes that have been written; each may be passed once."""
        if not episodes:
            return
        self._steps += sum(played.steps for played in episodes)
        self._new += len(episodes)
        rate = f"{self._steps / (time.monotonic() - self._began):,.0f} steps/s"
        for job in sorted({played.job for played in episodes}):
            row = self._rows[job]
            returns = [played.total for played in episodes if played.job == job]
            row.returns += returns
            row.done += len(returns)
            text = f"{rate}, mean return {np.mean(row.returns):.2f}, catalogue expert {row.score}"
            if self._console.is_terminal:
                self._show(row, text)
            else:
                left = remaining(self._began, self._new, self._missing - self._new)
                line = f"{row.env_id}: {row.done:,} of {row.total:,} episodes, {text}, {left} left"
                self._console.print(line, highlight=False, soft_wrap=True)
        self._bars.update(self._all, advance=len(episodes), description=rate)

    def _show(self, row: Row, text: str) -> None:
        """Update a task's bar, which is shown while the task is played."""
        if row.bar is None:
            row.bar = self._bars.add_task("", name=row.env_id, total=row.total, completed=row.done)
        self._bars.update(row.bar, completed=row.done, description=text)
        if row.done == row.total and len(self._rows) > 1:
            self._bars.remove_task(row.bar)
