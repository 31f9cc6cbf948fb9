"""Background writer of episodes; each commit writes one file of the episodes of about a second.

The interval grows by a second with every hundred commits, so that ten hours are some hundred files and not 36,000.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from gato_agent.rollouts.storage.episode_store import EpisodeStore

COMMIT_SECONDS = 1.0  # interval of commits; a commit waits for the disk, often longer than an episode takes
MANY = 100  # commits after which the interval grows by COMMIT_SECONDS
MOST_BYTES = 2**28  # of episodes in the queue; beyond it, playing waits for the disk


@dataclass(frozen=True)
class Played:
    """Result of one seed of a job.

    Attributes:
        job: index of the job.
        seed: seed of the episode.
        episode: `Encoded` in a collection; bytes from other players.
        steps: number of steps.
        total: undiscounted return.
        seconds: wall-clock time of playing.
    """

    job: int
    seed: int
    episode: Any
    steps: int
    total: float
    seconds: float


class EpisodeWriter:
    """Writer with one background thread; leaving its context writes the queue, also after an error."""

    def __init__(self, stores: Sequence[EpisodeStore]) -> None:
        self._stores = stores
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Played] = []
        self._writing: Future[list[Played]] | None = None
        self._since = time.monotonic()
        self._commits = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.finish()
        except OSError:
            if kind is None:  # otherwise the first error is shown
                raise
        finally:
            self._thread.shutdown()

    def add(self, played: Played) -> None:
        """Add an episode to the queue."""
        self._waiting.append(played)

    def poll(self) -> list[Played]:
        """Start a commit if one is due; return the episodes that were written since the last call.

        Raises:
            OSError: a file could not be written.
        """
        if self._writing is not None:
            full = sum(played.episode.nbytes for played in self._waiting) > MOST_BYTES
            return self._written() if full or self._writing.done() else []
        if self._waiting and time.monotonic() - self._since >= COMMIT_SECONDS * (1 + self._commits / MANY):
            self._begin()
        return []

    def finish(self) -> list[Played]:
        """Write the whole queue; return the episodes that were written since the last call; raises as `poll`."""
        written = self._written() if self._writing is not None else []
        if self._waiting:
            self._begin()
            written += self._written()
        return written

    def _begin(self) -> None:
        self._writing = self._thread.submit(self._write, self._waiting)
        self._waiting, self._since, self._commits = [], time.monotonic(), self._commits + 1

    def _written(self) -> list[Played]:
        assert self._writing is not None
        writing, self._writing = self._writing, None
        return writing.result()

    def _write(self, episodes: list[Played]) -> list[Played]:
        for job in sorted({played.job for played in episodes}):
            self._stores[job].commit([played.episode for played in episodes if played.job == job])
        return episodes
