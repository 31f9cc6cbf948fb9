"""Pool of worker processes that play episodes; one that dies or hangs fails its current seed and no other.

    this process   assigns chunks of seeds, receives results, watches heartbeats, replaces dead or hanging workers
    a worker       plays one chunk after the other and sends episodes as arrays; it writes no file

A worker ends with this process.
"""

import errno
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Generator, MutableSequence, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from gato_agent.rollouts.collection.episode_worker import (
    BEAT,
    JOB,
    NOTHING,
    SEED,
    STEP,
    Failed,
    Result,
    idle_heartbeat,
    not_tried,
)
from gato_agent.rollouts.collection.protocols import EPISODES, Job, MakePlayers, Watch, ignore
from gato_agent.rollouts.collection.scheduler import Chunk, Scheduler

POLL_SECONDS = 0.25
SEND_SECONDS = 0.2  # results are sent together: a message costs as much as a short episode
CLOSED = 77  # exit code of a worker in which an environment or expert closed the connection
START_SECONDS = 300.0  # least time limit for loading libraries, environment and expert


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


class _Worker:
    """A worker process and the queue of its unfinished chunks."""

    def __init__(self, jobs: Sequence[Job], players: MakePlayers) -> None:
        context = get_context("spawn")
        self.connection, remote = context.Pipe()
        self.heartbeat: Any = context.RawArray("q", idle_heartbeat())
        self.process = context.Process(target=_work, args=(remote, self.heartbeat, jobs, players), daemon=True)
        mask = signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGINT}
        )  # the worker inherits it until it ignores SIGINT
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        remote.close()  # so that the end of the worker closes the connection
        self.chunks: deque[tuple[int, deque[int]]] = deque()
        self.unused, self.played, self.retired = True, False, False
        self.last_beat, self.last_seen = 0, time.monotonic()

    def give(self, chunk: Chunk) -> None:
        """Send a chunk to the worker."""
        if not self.chunks:
            self.last_seen = time.monotonic()
        self.unused = False
        self.chunks.append((chunk.job, deque(chunk.seeds)))
        with suppress(OSError):  # a dead worker is replaced later
            self.connection.send(chunk)

    def finish(self, result: Result) -> None:
        """Remove a result's seed from its chunk, or the whole chunk if the job cannot be played."""
        _, seeds = self.chunks[0]
        if result.seed is None:
            seeds.clear()
        else:
            seeds.remove(result.seed)
        if not seeds:
            self.chunks.popleft()

    def timed_out(self, timeout: float) -> float | None:
        """Time limit in seconds if the heartbeat has stopped for longer, else None."""
        limit = timeout if self.heartbeat[SEED] != NOTHING else max(timeout, START_SECONDS)  # read before the beat
        beat = self.heartbeat[BEAT]
        if beat != self.last_beat or not self.chunks:
            self.last_beat, self.last_seen = beat, time.monotonic()
        return limit if time.monotonic() - self.last_seen > limit else None


class _Pool:
    """The running workers and the scheduler of their chunks."""

    def __init__(
        self, jobs: Sequence[Job], scheduler: Scheduler, size: int, timeout: float, players: MakePlayers, ahead: int,
        retries: int = 0,
    ) -> None:  # fmt: skip
        self._jobs, self._scheduler, self._size, self._timeout = jobs, scheduler, size, timeout
        self._players, self._ahead = players, ahead
        self._workers: list[_Worker] = []
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
            self._workers.append(_Worker(self._jobs, self._players))
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

    def _handle(self, worker: _Worker, result: Result) -> list[Result]:
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

    def _retry(self, worker: _Worker, job: int, seed: int) -> bool:
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

    def _retire(self, worker: _Worker) -> None:
        """Stop a worker that may have leaked resources, and requeue its seeds."""
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        for job, seeds in worker.chunks:
            self._scheduler.put_back(job, seeds)

    def _replace_worker(self, worker: _Worker, silent: float | None) -> list[Failed]:
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
        cause = f"did not finish within {silent:g} s (--timeout)" if silent is not None else _exit_cause(worker)
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


def _exit_cause(worker: _Worker) -> str:
    code = worker.process.exitcode or 0
    if code == CLOSED:
        return "ended its worker: it closed a file of the worker (Bad file descriptor)"
    return f"ended its worker: {signal.Signals(-code).name}" if code < 0 else f"ended its worker: exit code {code}"


def _work(
    connection: "Connection[Any, Any]", heartbeat: MutableSequence[int], jobs: Sequence[Job], make: MakePlayers
) -> None:
    """Main function of a worker: play chunks until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and stops its workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some environments print at every reset
    warnings.simplefilter("ignore")  # the parent has made every environment and shown its warnings
    players = make(jobs)
    try:
        while True:
            chunk = connection.recv()
            results: list[Result] = []
            since = time.monotonic()
            for result in players.play(chunk.job, chunk.seeds, heartbeat):
                results.append(result)
                if time.monotonic() - since >= SEND_SECONDS:
                    connection.send(results)
                    results, since = [], time.monotonic()
            if results:
                connection.send(results)
    except (EOFError, OSError) as error:  # either end is closed
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            os._exit(CLOSED)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
