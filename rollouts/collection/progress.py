"""Progress of a collection: speed, and the mean return of each task beside the catalogue's expert score."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console

from gato_agent.envs.io.console import plural
from gato_agent.envs.io.progress import Bar, Bars
from gato_agent.rollouts.storage.writer import Played


@dataclass
class Row(Bar):
    """Progress of one task in episodes.

    Attributes:
        score: the catalogue's expert score as text.
        returns: of the episodes that were played meanwhile.
    """

    score: str = ""
    returns: list[float] = field(default_factory=list)


class Report:
    """Display of the progress of all tasks; a context manager."""

    def __init__(self, console: Console, rows: Sequence[Row]) -> None:
        self._console, self._rows = console, rows
        self._began, self._steps = time.monotonic(), 0
        self._bars = Bars(console, rows, "episodes", _start(rows))

    def __enter__(self) -> Self:
        for row in self._rows:
            if row.done:
                text = f"{row.title}: {row.done:,} of {row.total:,} episodes are already collected"
                self._console.print(text, highlight=False, soft_wrap=True)
        self._bars.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.__exit__(kind, error, at)

    def __call__(self, episodes: Sequence[Played]) -> None:
        """Add episodes that have been written; each may be passed once."""
        if not episodes:
            return
        self._steps += sum(played.steps for played in episodes)
        rate = f"{self._steps / (time.monotonic() - self._began):,.0f} steps/s"
        for job in sorted({played.job for played in episodes}):
            row = self._rows[job]
            returns = [played.total for played in episodes if played.job == job]
            row.returns += returns
            known = f", catalogue expert {row.score}" if row.score else ""
            text = f"{rate}, mean return {np.mean(row.returns):.2f}{known}"
            self._bars.update(job, row.done + len(returns), text)
        self._bars.describe(rate)


def _start(rows: Sequence[Row]) -> str:
    """Line with the missing episodes; empty if there are none."""
    missing = {row.title: row.total - row.done for row in rows if row.done < row.total}
    tasks = next(iter(missing)) if len(missing) == 1 else f"{len(missing)} tasks"
    return f"{tasks}: collecting {plural(sum(missing.values()), 'episode')}" if missing else ""
