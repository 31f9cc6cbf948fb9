"""Play episodes in several processes; one that dies or hangs costs the seed that it was at, and no other.

    this process   deals chunks of seeds, hears results, watches pulses, buries the dead and starts others
    a worker       plays one chunk after the other and sends episodes as arrays; it writes no file

So a worker that outlives this process can harm nothing, and it ends by itself.
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
    untried,
)
from gato_agent.rollouts.collection.protocols import EPISODES, MakePlayers, Watch, Work, nobody
from gato_agent.rollouts.collection.scheduler import Chunk, Scheduler

POLL_SECONDS = 0.25
SEND_SECONDS = 0.2  # results are sent together: a message costs as much as a short episode
CLOSED = 77  # exit code of a worker whose connection was closed from inside
START_SECONDS = 300.0  # to load libraries, environment and expert, at least


def play_in_processes(
    jobs: Sequence[Work], missing: Sequence[Sequence[int]], workers: int, timeout: float, *,
    players: MakePlayers = EPISODES, ahead: int = 2, watch: Watch = nobody, second_chances: int = 0,
) -> Generator[list[Result], None, None]:  # fmt: skip
    """Play those seeds of each job in `workers` processes; yield results as they come, at least twice a second.

    Args:
        jobs: what is to be played.
        missing: the seeds of each.
        workers: number of processes.
        timeout: seconds after which a step that has not ended counts as hanging.
        players: makes a worker's players from the jobs.
        ahead: chunks that a worker is given at once; more than one saves it the wait for the next.
        watch: is told before every yield what each worker is at.
        second_chances: how many seeds of a job may fail in a new worker too, before one that fails after others were
            played is no longer played again in a new worker. What leaks fails after others, and not in a new process.
    """
    scheduler = Scheduler(missing, workers)
    pool = _Pool(jobs, scheduler, min(workers, sum(map(len, missing))), timeout, players, ahead, second_chances)
    try:
        while scheduler or pool.busy():
            pool.deal()
            results = pool.gather()
            pool.tell(watch)
            yield results
    finally:
        pool.close()


class _Worker:
    """A process, and the chunks that it was given and has not finished."""

    def __init__(self, jobs: Sequence[Work], players: MakePlayers) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.heartbeat: Any = context.RawArray("q", idle_heartbeat())
        self.process = context.Process(target=_work, args=(theirs, self.heartbeat, jobs, players), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is the only one, and we hear when it closes
        self.given: deque[tuple[int, deque[int]]] = deque()
        self.unused, self.played, self.retired = True, False, False
        self.beats, self.heard = 0, time.monotonic()

    def give(self, chunk: Chunk) -> None:
        """Send a chunk."""
        if not self.given:
            self.heard = time.monotonic()
        self.unused = False
        self.given.append((chunk.job, deque(chunk.seeds)))
        with suppress(OSError):  # it is dead, which will be noticed
            self.connection.send(chunk)

    def settle(self, result: Result) -> None:
        """Cross off what a result is about: its seed, or the rest of the chunk where the job cannot be played."""
        _, seeds = self.given[0]
        if result.seed is None:
            seeds.clear()
        else:
            seeds.remove(result.seed)
        if not seeds:
            self.given.popleft()

    def silent(self, timeout: float) -> float | None:
        """For how many seconds nothing has moved, if these are too many."""
        limit = timeout if self.heartbeat[SEED] != NOTHING else max(timeout, START_SECONDS)  # before the beats
        beats = self.heartbeat[BEAT]
        if beats != self.beats or not self.given:
            self.beats, self.heard = beats, time.monotonic()
        return limit if time.monotonic() - self.heard > limit else None


class _Pool:
    """The workers that live."""

    def __init__(
        self, jobs: Sequence[Work], scheduler: Scheduler, size: int, timeout: float, players: MakePlayers, ahead: int,
        second_chances: int = 0,
    ) -> None:  # fmt: skip
        self._jobs, self._dealer, self._size, self._timeout = jobs, scheduler, size, timeout
        self._players, self._ahead = players, ahead
        self._workers: list[_Worker] = []
        self._again: deque[tuple[int, int]] = deque()  # seeds that are to be the first of a new worker
        self._retried: set[tuple[int, int]] = set()
        self._chances = [second_chances] * len(jobs)
        self._spared: set[tuple[int, int]] = set()  # seeds that a worker was lost with, though it was at none

    def busy(self) -> bool:
        """Whether any result is awaited."""
        return bool(self._again) or any(worker.given for worker in self._workers)

    def tell(self, watch: Watch) -> None:
        """Say what each worker is at."""
        for worker in self._workers:
            if worker.heartbeat[JOB] != NOTHING:
                watch(worker.heartbeat[JOB], worker.heartbeat[STEP])

    def deal(self) -> None:
        """Give every worker something to do, and something to do next."""
        while (self._dealer or self._again) and len(self._workers) < self._size:
            self._workers.append(_Worker(self._jobs, self._players))
        for worker in self._workers:
            if self._again and worker.unused:
                job, seed = self._again.popleft()
                worker.give(Chunk(job, (seed,)))
        for depth in range(1, self._ahead + 1):
            for worker in self._workers:
                at = [other.given[-1][0] for other in self._workers if other.given and other is not worker]
                while len(worker.given) < depth:
                    chunk = self._dealer.deal(worker.given[-1][0] if worker.given else None, at)
                    if chunk is None:
                        return
                    worker.give(chunk)

    def gather(self) -> list[Result]:
        """Wait a moment for results; those whose worker died or hangs are failures."""
        results: list[Result] = []
        ready = wait([worker.connection for worker in self._workers], POLL_SECONDS)
        for worker in list(self._workers):
            if worker.connection in ready:
                try:
                    heard = worker.connection.recv()
                except (EOFError, OSError):
                    results += self._bury(worker, None)
                    continue
                for result in heard:
                    results += self._note(worker, result)
                if worker.retired:
                    self._retire(worker)
            elif (limit := worker.silent(self._timeout)) is not None:
                results += self._bury(worker, limit)
        return results

    def _note(self, worker: _Worker, result: Result) -> list[Result]:
        """What is to be told of a result; nothing of a failure that may be the worker's and not the seed's."""
        worker.settle(result)
        worker.heard = time.monotonic()
        if isinstance(result, Failed):
            if result.seed is not None and self._doubtful(worker, result.job, result.seed):
                return []
            left = self._dealer.failed(result.job, result.seed)
            return [result, *untried(result.job, self._jobs[result.job].env_id, left)]
        worker.played = True
        self._dealer.played(result.job, result.seconds)
        return [result]

    def _doubtful(self, worker: _Worker, job: int, seed: int) -> bool:
        """True for a seed that is played again, because its worker has played others before it failed."""
        if worker.retired:  # it went on before it was stopped
            self._dealer.put_back(job, [seed])
            return True
        if (job, seed) in self._retried:
            self._chances[job] -= 1
        if (job, seed) in self._retried or not worker.played or self._chances[job] <= 0:
            return False
        worker.retired = True
        self._retried.add((job, seed))
        self._again.append((job, seed))
        return True

    def _retire(self, worker: _Worker) -> None:
        """End a worker that may have leaked something, and let its seeds be dealt again."""
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        for job, seeds in worker.given:
            self._dealer.put_back(job, seeds)

    def _bury(self, worker: _Worker, silent: float | None) -> list[Failed]:
        """Blame the seed that a dead or hanging worker was at, and let its others be dealt again.

        Where it was at none, all are dealt once more; the second time the first of them is blamed, so that it ends.
        """
        self._workers.remove(worker)
        if silent is None:
            worker.process.join(POLL_SECONDS)  # it ends by itself, and its exit code says why
        worker.process.kill()  # or not: it may be stuck in its exit
        worker.process.join()
        worker.connection.close()
        lost = [(job, seed) for job, seeds in worker.given for seed in seeds]
        if not lost:
            return []
        at = worker.heartbeat[JOB], worker.heartbeat[SEED]
        spared = at not in lost and lost[0] not in self._spared
        self._spared |= set(lost) if spared else set()
        job, seed = blamed = at if at in lost else lost[0]  # what it was at, or about to begin
        others = [each for each in lost if spared or each != blamed]
        step = worker.heartbeat[STEP] if blamed == at else 0
        why = f"did not finish within {silent:g} s (--timeout)" if silent is not None else _death(worker)
        for kin in sorted({kin for kin, _ in others}):
            self._dealer.put_back(kin, [other for of, other in others if of == kin])
        if spared:
            return []
        env_id = self._jobs[job].env_id
        failure = Failed(job, seed, f"{env_id}: {self._jobs[job].where(seed, step)} {why}")
        return [failure, *untried(job, env_id, self._dealer.failed(job, seed))]

    def close(self) -> None:
        """End all workers, whatever they are at."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()


def _death(worker: _Worker) -> str:
    code = worker.process.exitcode or 0
    if code == CLOSED:
        return "ended its worker: it closed files that were not its own (Bad file descriptor)"
    return f"ended its worker: {signal.Signals(-code).name}" if code < 0 else f"ended its worker: exit code {code}"


def _work(
    connection: "Connection[Any, Any]", heartbeat: MutableSequence[int], jobs: Sequence[Work], make: MakePlayers
) -> None:
    """Be a worker: play chunks until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some environments print at every reset
    warnings.simplefilter("ignore")  # the parent has made every environment too, and shown what there is to say
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
    except (EOFError, OSError) as error:  # the other end is closed, or this one
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            os._exit(CLOSED)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
