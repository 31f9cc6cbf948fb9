"""Scheduling of seeds to workers, independent of processes."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

CHUNK_SECONDS = 0.5  # of playing a chunk: much longer than a message, much shorter than a collection
MOST = 64  # episodes of a chunk
HOPELESS = 10  # failures before the first success after which a job is given up


class Chunk(NamedTuple):
    """Seeds of one job for one worker."""

    job: int
    seeds: tuple[int, ...]


class Scheduler:
    """Scheduler of chunks: a worker stays with its job, then goes to the job with the fewest workers."""

    def __init__(self, missing: Sequence[Iterable[int]], workers: int) -> None:
        """Schedule the seeds of each job on `workers` workers."""
        self._waiting = [deque(seeds) for seeds in missing]
        self._workers = workers
        self._seconds: dict[int, float] = {}  # job -> moving average of an episode's duration
        self._failures = [0] * len(self._waiting)
        self._dropped: set[int] = set()

    def __bool__(self) -> bool:
        """True if any seed is waiting."""
        return any(self._waiting)

    def next_chunk(self, current: int | None, busy: Sequence[int]) -> Chunk | None:
        """Choose the next chunk of a worker.

        Args:
            current: job of the worker, or None.
            busy: jobs of the other workers.
        """
        if current is None or not self._waiting[current]:
            open_jobs = [job for job, seeds in enumerate(self._waiting) if seeds]
            if not open_jobs:
                return None
            current = min(open_jobs, key=busy.count)  # the first of several, so that jobs end about in their order
        seeds = self._waiting[current]
        fitting = int(CHUNK_SECONDS / self._seconds[current]) if current in self._seconds else 1
        fair = -(-len(seeds) // (2 * self._workers))
        return Chunk(current, tuple(seeds.popleft() for _ in range(max(1, min(fitting, fair, MOST)))))

    def put_back(self, job: int, seeds: Iterable[int]) -> None:
        """Requeue these seeds at the front."""
        if job not in self._dropped:
            self._waiting[job].extendleft(reversed(list(seeds)))

    def played(self, job: int, seconds: float) -> None:
        """Add the duration of an episode to the job's moving average."""
        known = self._seconds.get(job, seconds)
        self._seconds[job] = max(1e-6, 0.8 * known + 0.2 * seconds)

    def failed(self, job: int, seed: int | None) -> int:
        """Count a failure; a job that cannot be played, or whose first HOPELESS seeds failed, is dropped.

        Args:
            job: index of the job.
            seed: failed seed; None if the job cannot be played.

        Returns:
            Number of seeds that are dropped because all before them failed.
        """
        self._failures[job] += 1
        hopeless = job not in self._seconds and self._failures[job] >= HOPELESS
        if seed is not None and not hopeless:
            return 0
        left = len(self._waiting[job])
        self._dropped.add(job)
        self._waiting[job].clear()
        return left if seed is not None else 0
