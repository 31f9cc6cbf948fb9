"""A worker process of the pool: it plays one chunk of seeds after the other, and ends with its parent."""

import errno
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import MutableSequence, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from gato_agent.rollouts.collection.episode_worker import BEAT, NOTHING, SEED, Result, idle_heartbeat
from gato_agent.rollouts.collection.protocols import Job, MakePlayers
from gato_agent.rollouts.collection.scheduler import Chunk

SEND_SECONDS = 0.2  # results are sent together: a message costs as much as a short episode
CLOSED = 77  # exit code of a worker in which an environment or expert closed the connection
START_SECONDS = 300.0  # least time limit for loading libraries, environment and expert


class WorkerProcess:
    """A worker process and the queue of its unfinished chunks."""

    def __init__(self, jobs: Sequence[Job], players: MakePlayers) -> None:
        context = get_context("spawn")
        self.connection, remote = context.Pipe()
        self.heartbeat: Any = context.RawArray("q", idle_heartbeat())
        self.process = context.Process(target=_work, args=(remote, self.heartbeat, jobs, players), daemon=True)
        # The worker inherits the mask until it ignores SIGINT.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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


def exit_cause(process: Any) -> str:
    """Reason for the end of a worker's process, for a message."""
    code = process.exitcode or 0
    if code == CLOSED:
        return "ended its worker: it closed a file of the worker (Bad file descriptor)"
    return f"ended its worker: {signal.Signals(-code).name}" if code < 0 else f"ended its worker: exit code {code}"
