"""Which worker plays which seeds next; pure bookkeeping, so that it can be tested without any process."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

CHUNK_SECONDS = 0.5  # of playing: long against a message, short against the wait for the last worker
MOST = 64  # episodes of a chunk, whatever they take
HOPELESS = 10  # seeds of a job that may fail before any is played; the others would most likely do the same


class Chunk(NamedTuple):
    """Seeds of one job, for one worker."""

    job: int
    seeds: tuple[int, ...]


class Scheduler:
    """Deals chunks: a worker stays with its job, and else helps where the fewest are."""

    def __init__(self, missing: Sequence[Iterable[int]], workers: int) -> None:
        """Deal those seeds of each job among `workers`."""
        self._waiting = [deque(seeds) for seeds in missing]
        self._workers = workers
        self._seconds: dict[int, float] = {}  # an episode of a job takes about so long
        self._failures = [0] * len(self._waiting)
        self._dropped: set[int] = set()

    def __bool__(self) -> bool:
        """Whether any seed waits."""
        return any(self._waiting)

    def deal(self, current: int | None, busy: Sequence[int]) -> Chunk | None:
        """Choose the next chunk of a worker.

        Args:
            current: the job that the worker is at.
            busy: the jobs that the others are at.
        """
        if current is None or not self._waiting[current]:
            open_jobs = [job for job, seeds in enumerate(self._waiting) if seeds]
            if not open_jobs:
                return None
            current = min(open_jobs, key=busy.count)  # the first of them: jobs end about in their order
        seeds = self._waiting[current]
        fitting = int(CHUNK_SECONDS / self._seconds[current]) if current in self._seconds else 1
        fair = -(-len(seeds) // (2 * self._workers))
        return Chunk(current, tuple(seeds.popleft() for _ in range(max(1, min(fitting, fair, MOST)))))

    def put_back(self, job: int, seeds: Iterable[int]) -> None:
        """Let these seeds be dealt again, first."""
        if job not in self._dropped:
            self._waiting[job].extendleft(reversed(list(seeds)))

    def played(self, job: int, seconds: float) -> None:
        """Learn how long an episode takes."""
        known = self._seconds.get(job, seconds)
        self._seconds[job] = max(1e-6, 0.8 * known + 0.2 * seconds)

    def failed(self, job: int, seed: int | None) -> int:
        """Note a failure; a job that cannot be played, or of which only failures are known, is dealt no more.

        Returns:
            How many seeds will not be tried, because all of the job's before have failed.
        """
        self._failures[job] += 1
        hopeless = job not in self._seconds and self._failures[job] >= HOPELESS
        if seed is not None and not hopeless:
            return 0
        left = len(self._waiting[job])
        self._dropped.add(job)
        self._waiting[job].clear()
        return left if seed is not None else 0
