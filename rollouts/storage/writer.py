"""Write episodes while others are played, in groups of about a second; what it returns is on disk.

A group is a file. So that ten hours of them are some hundred files and not 36,000, each hundred makes the next ones a
second longer.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from gato_agent.rollouts.storage.episode_store import EpisodeStore

GROUP_SECONDS = 1.0  # a commit waits for the disk, longer than many an episode takes: not after every one
MANY = 100  # groups, after which they are twice as long, and so on
MOST_BYTES = 2**28  # that may wait while a group is written: past it, playing waits for the disk


@dataclass(frozen=True)
class Played:
    """Result of one seed of a job: its episode and figures to report.

    Attributes:
        job: index of the job.
        episode: `Encoded` where episodes are collected; bytes from players that make something else of them.
        total: undiscounted return.
        seconds: wall-clock time that it took.
    """

    job: int
    seed: int
    episode: Any
    steps: int
    total: float
    seconds: float


class EpisodeWriter:
    """One thread that writes; leaving the context writes what was played, even when something else has failed."""

    def __init__(self, stores: Sequence[EpisodeStore]) -> None:
        self._stores = stores
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Played] = []
        self._writing: Future[list[Played]] | None = None
        self._since = time.monotonic()
        self._groups = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.finish()
        except OSError:
            if kind is None:  # otherwise the first error is the one to show
                raise
        finally:
            self._thread.shutdown()

    def add(self, played: Played) -> None:
        """Take an episode to be written."""
        self._waiting.append(played)

    def turn(self) -> list[Played]:
        """Begin a group if it is time, and return the one that has been written since the last call, if any.

        Raises:
            OSError: it could not be written.
        """
        if self._writing is not None:
            full = sum(played.episode.nbytes for played in self._waiting) > MOST_BYTES
            return self._written() if full or self._writing.done() else []
        if self._waiting and time.monotonic() - self._since >= GROUP_SECONDS * (1 + self._groups / MANY):
            self._begin()
        return []

    def finish(self) -> list[Played]:
        """Write all that waits, and return what was written since the last call; raises OSError as `turn`."""
        written = self._written() if self._writing is not None else []
        if self._waiting:
            self._begin()
            written += self._written()
        return written

    def _begin(self) -> None:
        self._writing = self._thread.submit(self._write, self._waiting)
        self._waiting, self._since, self._groups = [], time.monotonic(), self._groups + 1

    def _written(self) -> list[Played]:
        assert self._writing is not None
        writing, self._writing = self._writing, None
        return writing.result()

    def _write(self, group: list[Played]) -> list[Played]:
        for job in sorted({played.job for played in group}):
            self._stores[job].commit([played.episode for played in group if played.job == job])
        return group
