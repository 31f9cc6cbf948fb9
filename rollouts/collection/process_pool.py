"""Pool of worker processes that play episodes; one that dies or hangs fails its current seed and no other.

    this process   assigns chunks of seeds, receives results, watches heartbeats, replaces dead or hanging workers
    a worker       plays one chunk after the other and sends episodes as arrays; it writes no file

A worker ends with this process.
"""

import time
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import wait

from gato_agent.rollouts.collection.episode_worker import (
    JOB,
    NOTHING,
    SEED,
    STEP,
    Failed,
    Result,
    not_tried,
)
from gato_agent.rollouts.collection.protocols import EPISODES, Job, MakePlayers, Watch, ignore
from gato_agent.rollouts.collection.scheduler import Chunk, Scheduler
from gato_agent.rollouts.collection.worker_process import WorkerProcess, exit_cause

POLL_SECONDS = 0.25


def play_in_processes(
    jobs: Sequence[Job], missing: Sequence[Sequence[int]], workers: int, timeout: float, *,
    players: MakePlayers = EPISODES, ahead: int = 2, watch: Watch = ignore, retries: int = 0,
) -> Generator[list[Result], None, None]:  # fmt: skip
    """Play seeds of jobs in worker processes; yield results as they arrive, at least twice a second.

    Args:
        jobs: the jobs.
        missing: seeds of each job.
        workers: number of processes.
        timeout: time limit of one step, seconds.
        players: function that makes a worker's player from the jobs.
        ahead: chunks in the queue of each worker; with two or more it never waits for the next.
        watch: called before every yield with the job and step of each worker.
        retries: a seed that fails after others in the same worker is played again in a new one, since the cause may be
            a leak. This stops for a job after so many seeds have failed in a new worker too.
    """
    scheduler = Scheduler(missing, workers)
    pool = _Pool(jobs, scheduler, min(workers, sum(map(len, missing))), timeout, players, ahead, retries)
    try:
        while scheduler or pool.busy():
            pool.assign_chunks()
            results = pool.gather()
            pool.report(watch)
            yield results
    finally:
        pool.close()


class _Pool:
    """The running workers and the scheduler of their chunks."""

    def __init__(
        self, jobs: Sequence[Job], scheduler: Scheduler, size: int, timeout: float, players: MakePlayers, ahead: int,
        retries: int = 0,
    ) -> None:  # fmt: skip
        self._jobs, self._scheduler, self._size, self._timeout = jobs, scheduler, size, timeout
        self._players, self._ahead = players, ahead
        self._workers: list[WorkerProcess] = []
        self._retries: deque[tuple[int, int]] = deque()  # seeds that a new worker plays first
        self._retried: set[tuple[int, int]] = set()
        self._retries_left = [retries] * len(jobs)
        self._requeued: set[tuple[int, int]] = set()  # seeds of a worker that died between two seeds

    def busy(self) -> bool:
        """True if any result is outstanding."""
        return bool(self._retries) or any(worker.chunks for worker in self._workers)

    def report(self, watch: Watch) -> None:
        """Pass the job and step of each worker to `watch`."""
        for worker in self._workers:
            if worker.heartbeat[JOB] != NOTHING:
                watch(worker.heartbeat[JOB], worker.heartbeat[STEP])

    def assign_chunks(self) -> None:
        """Start missing workers and fill the queue of each with `ahead` chunks."""
        while (self._scheduler or self._retries) and len(self._workers) < self._size:
            self._workers.append(WorkerProcess(self._jobs, self._players))
        for worker in self._workers:
            if self._retries and worker.unused:
                job, seed = self._retries.popleft()
                worker.give(Chunk(job, (seed,)))
        for depth in range(1, self._ahead + 1):
            for worker in self._workers:
                busy = [other.chunks[-1][0] for other in self._workers if other.chunks and other is not worker]
                while len(worker.chunks) < depth:
                    chunk = self._scheduler.next_chunk(worker.chunks[-1][0] if worker.chunks else None, busy)
                    if chunk is None:
                        return
                    worker.give(chunk)

    def gather(self) -> list[Result]:
        """Receive results for up to POLL_SECONDS; a dead or hanging worker gives a failure."""
        results: list[Result] = []
        ready = wait([worker.connection for worker in self._workers], POLL_SECONDS)
        for worker in list(self._workers):
            if worker.connection in ready:
                try:
                    received = worker.connection.recv()
                except (EOFError, OSError):
                    results += self._replace_worker(worker, None)
                    continue
                for result in received:
                    results += self._handle(worker, result)
                if worker.retired:
                    self._retire(worker)
            elif (limit := worker.timed_out(self._timeout)) is not None:
                results += self._replace_worker(worker, limit)
        return results

    def _handle(self, worker: WorkerProcess, result: Result) -> list[Result]:
        """Results to yield for a result of a worker; none for a failure that is retried."""
        worker.finish(result)
        worker.last_seen = time.monotonic()
        if isinstance(result, Failed):
            if result.seed is not None and self._retry(worker, result.job, result.seed):
                return []
            left = self._scheduler.failed(result.job, result.seed)
            return [result, *not_tried(result.job, self._jobs[result.job].env_id, left)]
        worker.played = True
        self._scheduler.played(result.job, result.seconds)
        return [result]

    def _retry(self, worker: WorkerProcess, job: int, seed: int) -> bool:
        """True if a failed seed is played again, because its worker had played others before."""
        if worker.retired:  # a result from before it was stopped
            self._scheduler.put_back(job, [seed])
            return True
        if (job, seed) in self._retried:
            self._retries_left[job] -= 1
        if (job, seed) in self._retried or not worker.played or self._retries_left[job] <= 0:
            return False
        worker.retired = True
        self._retried.add((job, seed))
        self._retries.append((job, seed))
        return True

    def _retire(self, worker: WorkerProcess) -> None:
        """Stop a worker that may have leaked resources, and requeue its seeds."""
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        for job, seeds in worker.chunks:
            self._scheduler.put_back(job, seeds)

    def _replace_worker(self, worker: WorkerProcess, silent: float | None) -> list[Failed]:
        """Stop a dead or hanging worker, fail its current seed, and requeue its other seeds.

        If it died between two seeds, all are requeued once. The second time the first of them fails, so that playing
        ends.

        Args:
            worker: the worker.
            silent: time limit that it exceeded, seconds; None if it died.
        """
        self._workers.remove(worker)
        if silent is None:
            worker.process.join(POLL_SECONDS)  # for its exit code
        worker.process.kill()  # it may be stuck in its exit
        worker.process.join()
        worker.connection.close()
        lost = [(job, seed) for job, seeds in worker.chunks for seed in seeds]
        if not lost:
            return []
        current = worker.heartbeat[JOB], worker.heartbeat[SEED]
        requeue_all = current not in lost and lost[0] not in self._requeued
        self._requeued |= set(lost) if requeue_all else set()
        job, seed = failed = current if current in lost else lost[0]  # the current seed, or the next one
        others = [each for each in lost if requeue_all or each != failed]
        step = worker.heartbeat[STEP] if failed == current else 0
        cause = f"did not finish within {silent:g} s (--timeout)" if silent is not None else exit_cause(worker.process)
        for other_job in sorted({each for each, _ in others}):
            self._scheduler.put_back(other_job, [other for each, other in others if each == other_job])
        if requeue_all:
            return []
        env_id = self._jobs[job].env_id
        failure = Failed(job, seed, f"{env_id}: {self._jobs[job].where(seed, step)} {cause}")
        return [failure, *not_tried(job, env_id, self._scheduler.failed(job, seed))]

    def close(self) -> None:
        """Stop all workers at once."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
