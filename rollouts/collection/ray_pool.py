"""Pool of workers on a Ray cluster, whose episodes are the same as those of local processes.

Workers import this package and the modules of environments, and read the files of experts, on their own machine. They
write no file: episodes are returned as arrays.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.rollouts.collection.episode_worker import (
    BEAT,
    NOTHING,
    SEED,
    STEP,
    Failed,
    Result,
    idle_heartbeat,
    not_tried,
)
from gato_agent.rollouts.collection.protocols import EPISODES, Job, MakePlayers
from gato_agent.rollouts.collection.scheduler import Chunk, Scheduler

POLL_SECONDS = 0.25
START_SECONDS = 300.0  # least time limit for making environment and expert


def play_on_ray(
    jobs: Sequence[Job], missing: Sequence[Sequence[int]], address: str, workers: int | None, timeout: float, *,
    players: MakePlayers = EPISODES,
) -> Generator[list[Result], None, None]:  # fmt: skip
    """Play seeds of jobs on Ray; yield results as they arrive, at least twice a second.

    Args:
        jobs: the jobs.
        missing: seeds of each job.
        address: address of the cluster, or `local` to start one on this machine.
        workers: number of workers of one CPU each, at most one per CPU of the cluster; None for all CPUs.
        timeout: time limit of one step, seconds.
        players: function that makes a worker's player from the jobs.

    Raises:
        UsageError: Ray is missing, or there is no cluster at the address.
        GatoError: no worker could be started.
    """
    ray = _start(address)
    try:
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        count = min(workers or cpus, cpus, sum(map(len, missing)))
        yield from _Pool(ray, jobs, Scheduler(missing, max(1, count)), count, timeout, players).results()
    finally:
        ray.shutdown()


class _Pool:
    """Workers on the cluster and the chunk that each is playing."""

    def __init__(
        self,
        ray: Any,
        jobs: Sequence[Job],
        scheduler: Scheduler,
        size: int,
        timeout: float,
        players: MakePlayers = EPISODES,
    ) -> None:
        self._ray, self._jobs, self._scheduler, self._size, self._timeout = ray, jobs, scheduler, size, timeout
        self._players = players
        self._make = ray.remote(num_cpus=1, max_restarts=0)(_Worker).remote
        self._suspects: deque[Chunk] = deque()  # seeds of a worker that died, to be played one at a time
        self._playing: dict[Any, tuple[Any, Chunk]] = {}  # reference of the result -> worker and chunk
        self._starting: dict[Any, Any] = {}  # reference of `ready` -> worker, which may wait long for a CPU
        self._start_error = ""  # of the latest worker that could not be started

    def results(self) -> Generator[list[Result], None, None]:
        """Play all seeds."""
        idle: list[tuple[Any, int | None]] = []
        for _ in range(self._size):
            self._start()
        while self._suspects or self._scheduler or self._playing:
            idle = [(worker, job) for worker, job in idle if not self._give(worker, job)]
            awaited = [*self._starting, *self._playing]
            if not awaited:
                raise GatoError(f"no worker could be started on the Ray cluster: {self._start_error}")
            done, _ = self._ray.wait(awaited, timeout=POLL_SECONDS)
            results: list[Result] = []
            for reference in done:
                if reference in self._starting:
                    idle += self._started(reference)
                    continue
                worker, chunk = self._playing.pop(reference)
                received, alive = self._received(reference, chunk)
                results += received
                if alive:
                    idle.append((worker, chunk.job))
                else:
                    self._ray.kill(worker)
                    self._start()
            yield results

    def _start(self) -> None:
        worker = self._make(list(self._jobs), self._timeout, self._players)
        self._starting[worker.ready.remote()] = worker

    def _started(self, reference: Any) -> list[tuple[Any, None]]:
        """List of the worker that is ready; empty if it could not be started."""
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._start_error = one_line(error)
            return []
        return [(worker, None)]

    def _give(self, worker: Any, job: int | None) -> bool:
        busy = [chunk.job for _, chunk in self._playing.values()]
        chunk = self._suspects.popleft() if self._suspects else self._scheduler.next_chunk(job, busy)
        if chunk is None:
            return False
        self._playing[worker.play.remote(chunk)] = worker, chunk
        return True

    def _received(self, reference: Any, chunk: Chunk) -> tuple[list[Result], bool]:
        """Results of a chunk, and true if its worker is still usable."""
        try:
            results: list[Result] = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if len(chunk.seeds) > 1:
                self._suspects += [Chunk(chunk.job, (seed,)) for seed in chunk.seeds]
                return [], False
            seed = chunk.seeds[0]
            reason = f"{self._jobs[chunk.job].env_id}: seed {seed} ended its worker: {one_line(error)}"
            return [Failed(chunk.job, seed, reason), *self._failed(chunk.job, seed)], False
        reported = {result.seed for result in results}
        more: list[Failed] = []
        for result in results:
            if isinstance(result, Failed):
                more += self._failed(result.job, result.seed)
            else:
                self._scheduler.played(result.job, result.seconds)
        if None in reported:
            return results, True
        rest = [seed for seed in chunk.seeds if seed not in reported]
        self._scheduler.put_back(chunk.job, rest)
        hung = isinstance(results[-1], Failed) and results[-1].reason.endswith("(--timeout)")
        return [*results, *more], not hung

    def _failed(self, job: int, seed: int | None) -> list[Failed]:
        return not_tried(job, self._jobs[job].env_id, self._scheduler.failed(job, seed))


class _Worker:
    """A worker process of the cluster; one thread plays while another watches its heartbeat."""

    def __init__(self, jobs: Sequence[Job], timeout: float, players: MakePlayers = EPISODES) -> None:
        self._jobs, self._timeout, self._make = jobs, timeout, players
        self._players = players(jobs)

    def ready(self) -> None:
        """Return once the worker has started."""

    def play(self, chunk: Chunk) -> list[Result]:
        """Play a chunk; if a step times out, return the results before it and a failure as the last one."""
        results: list[Result] = []
        heartbeat = idle_heartbeat()

        def failed(cause: str) -> Failed:
            seed = heartbeat[SEED] if heartbeat[SEED] != NOTHING else chunk.seeds[len(results)]
            env_id = self._jobs[chunk.job].env_id
            return Failed(chunk.job, seed, f"{env_id}: {self._jobs[chunk.job].where(seed, heartbeat[STEP])} {cause}")

        def play() -> None:
            try:
                for result in self._players.play(chunk.job, chunk.seeds, heartbeat):
                    results.append(result)  # noqa: PERF402  # one by one, because the other thread reads the list
            except BaseException as error:  # noqa: BLE001  # such as SystemExit, which would end the thread silently
                self._players = self._make(self._jobs)
                results.append(failed(f"raised {one_line(error)}"))

        playing = threading.Thread(target=play, daemon=True)
        playing.start()
        beat, last_seen = heartbeat[BEAT], time.monotonic()
        while playing.is_alive():
            playing.join(POLL_SECONDS / 10)
            limit = (
                self._timeout if heartbeat[SEED] != NOTHING else max(self._timeout, START_SECONDS)
            )  # read before the beat
            if heartbeat[BEAT] != beat:
                beat, last_seen = heartbeat[BEAT], time.monotonic()
            if time.monotonic() - last_seen > limit:
                return [*results, failed(f"did not finish within {limit:g} s (--timeout)")]
        return results


def _start(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"Ray is missing ({one_line(error)}): pip install 'gato-agent[ray]'") from error
    quiet: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--ray {address}: no cluster there: {one_line(error)}") from error
    return ray
