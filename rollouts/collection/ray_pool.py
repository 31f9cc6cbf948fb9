"""Play episodes on the machines of a Ray cluster: the same chunks of seeds, and the same bytes, as on this one.

Workers import this package, the modules that environments name and the files of experts from their own machine. They
write nothing: episodes come back as arrays.
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
    untried,
)
from gato_agent.rollouts.collection.protocols import EPISODES, MakePlayers, Work
from gato_agent.rollouts.collection.scheduler import Chunk, Scheduler

POLL_SECONDS = 0.25
START_SECONDS = 300.0  # to make environment and expert, at least


def play_on_ray(
    jobs: Sequence[Work], missing: Sequence[Sequence[int]], address: str, workers: int | None, timeout: float, *,
    players: MakePlayers = EPISODES,
) -> Generator[list[Result], None, None]:  # fmt: skip
    """Play those seeds of each job on Ray; yield results as they come, at least twice a second.

    Args:
        jobs: what is to be played.
        missing: the seeds of each.
        address: of the cluster, or `local` to start one on this machine.
        workers: how many, one CPU each, of those that there are; None for all.
        timeout: seconds after which a step that has not ended counts as hanging.
        players: makes a worker's players from the jobs.

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
    """Workers on the cluster, and what each is at."""

    def __init__(
        self,
        ray: Any,
        jobs: Sequence[Work],
        scheduler: Scheduler,
        size: int,
        timeout: float,
        players: MakePlayers = EPISODES,
    ) -> None:
        self._ray, self._jobs, self._dealer, self._size, self._timeout = ray, jobs, scheduler, size, timeout
        self._players = players
        self._make = ray.remote(num_cpus=1, max_restarts=0)(_Worker).remote
        self._suspects: deque[Chunk] = deque()  # seeds of a worker that died: one of them did it, so one at a time
        self._at: dict[Any, tuple[Any, Chunk]] = {}  # awaited result -> worker and chunk
        self._coming: dict[Any, Any] = {}  # awaited sign of life -> worker, which may wait long for a CPU
        self._lost = ""  # why a worker could not be started

    def results(self) -> Generator[list[Result], None, None]:
        """Play everything."""
        idle: list[tuple[Any, int | None]] = []
        for _ in range(self._size):
            self._start()
        while self._suspects or self._dealer or self._at:
            idle = [(worker, job) for worker, job in idle if not self._give(worker, job)]
            awaited = [*self._coming, *self._at]
            if not awaited:
                raise GatoError(f"no worker could be started on the Ray cluster: {self._lost}")
            done, _ = self._ray.wait(awaited, timeout=POLL_SECONDS)
            results: list[Result] = []
            for reference in done:
                if reference in self._coming:
                    idle += self._started(reference)
                    continue
                worker, chunk = self._at.pop(reference)
                heard, alive = self._heard(reference, chunk)
                results += heard
                if alive:
                    idle.append((worker, chunk.job))
                else:
                    self._ray.kill(worker)
                    self._start()
            yield results

    def _start(self) -> None:
        worker = self._make(list(self._jobs), self._timeout, self._players)
        self._coming[worker.ready.remote()] = worker

    def _started(self, reference: Any) -> list[tuple[Any, None]]:
        """The worker that gave a sign of life; none if it could not be started."""
        worker = self._coming.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._lost = one_line(error)
            return []
        return [(worker, None)]

    def _give(self, worker: Any, job: int | None) -> bool:
        busy = [chunk.job for _, chunk in self._at.values()]
        chunk = self._suspects.popleft() if self._suspects else self._dealer.deal(job, busy)
        if chunk is None:
            return False
        self._at[worker.play.remote(chunk)] = worker, chunk
        return True

    def _heard(self, reference: Any, chunk: Chunk) -> tuple[list[Result], bool]:
        """Results of a chunk, and whether its worker lives."""
        try:
            results: list[Result] = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if len(chunk.seeds) > 1:
                self._suspects += [Chunk(chunk.job, (seed,)) for seed in chunk.seeds]
                return [], False
            seed = chunk.seeds[0]
            reason = f"{self._jobs[chunk.job].env_id}: seed {seed} ended its worker: {one_line(error)}"
            return [Failed(chunk.job, seed, reason), *self._failed(chunk.job, seed)], False
        told = {result.seed for result in results}
        more: list[Failed] = []
        for result in results:
            if isinstance(result, Failed):
                more += self._failed(result.job, result.seed)
            else:
                self._dealer.played(result.job, result.seconds)
        if None in told:
            return results, True
        rest = [seed for seed in chunk.seeds if seed not in told]
        self._dealer.put_back(chunk.job, rest)
        hung = isinstance(results[-1], Failed) and results[-1].reason.endswith("(--timeout)")
        return [*results, *more], not hung

    def _failed(self, job: int, seed: int | None) -> list[Failed]:
        return untried(job, self._jobs[job].env_id, self._dealer.failed(job, seed))


class _Worker:
    """A process of the cluster; a thread plays while another watches it."""

    def __init__(self, jobs: Sequence[Work], timeout: float, players: MakePlayers = EPISODES) -> None:
        self._jobs, self._timeout, self._make = jobs, timeout, players
        self._players = players(jobs)

    def ready(self) -> None:
        """Give a sign of life."""

    def play(self, chunk: Chunk) -> list[Result]:
        """Play a chunk; if a step hangs, return what was played before and a failure as the last result."""
        results: list[Result] = []
        heartbeat = idle_heartbeat()

        def failed(why: str) -> Failed:
            seed = heartbeat[SEED] if heartbeat[SEED] != NOTHING else chunk.seeds[len(results)]
            env_id = self._jobs[chunk.job].env_id
            return Failed(chunk.job, seed, f"{env_id}: {self._jobs[chunk.job].where(seed, heartbeat[STEP])} {why}")

        def play() -> None:
            try:
                for result in self._players.play(chunk.job, chunk.seeds, heartbeat):
                    results.append(result)  # noqa: PERF402  # one by one, because the other thread looks
            except BaseException as error:  # noqa: BLE001  # such as SystemExit, which would end the thread unheard
                self._players = self._make(self._jobs)
                results.append(failed(f"raised {one_line(error)}"))

        playing = threading.Thread(target=play, daemon=True)
        playing.start()
        beats, heard = heartbeat[BEAT], time.monotonic()
        while playing.is_alive():
            playing.join(POLL_SECONDS / 10)
            limit = (
                self._timeout if heartbeat[SEED] != NOTHING else max(self._timeout, START_SECONDS)
            )  # before the beats
            if heartbeat[BEAT] != beats:
                beats, heard = heartbeat[BEAT], time.monotonic()
            if time.monotonic() - heard > limit:
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
