"""The seed that fails when a worker dies, tested without processes."""

from collections import deque
from types import SimpleNamespace
from typing import Any

from gato_agent.rollouts.collection.episode_worker import NOTHING, Players
from gato_agent.rollouts.collection.process_pool import _Pool
from gato_agent.rollouts.collection.scheduler import Scheduler

JOB: Any = SimpleNamespace(env_id="Thing-v0", where=lambda seed, step: f"step {step} of seed {seed}")


def pool_of(scheduler: Scheduler) -> _Pool:
    return _Pool([JOB], scheduler, 1, 5.0, Players, 2)


class Process:
    """A process that is stuck in its exit: only a kill ends it."""

    exitcode: int | None = None

    def join(self, timeout: float | None = None) -> None:
        assert self.exitcode is not None or timeout is not None  # otherwise it would block

    def kill(self) -> None:
        self.exitcode = -9


def lose(pool: _Pool, *seeds: int, at: int = NOTHING) -> list[Any]:
    """Failure messages when a worker with these seeds dies at one of them, or between two."""
    connection = SimpleNamespace(close=lambda: None)
    chunks = deque([(0, deque(seeds))])
    worker: Any = SimpleNamespace(process=Process(), connection=connection, chunks=chunks, heartbeat=[0, at, 2, 0])
    pool._workers.append(worker)
    return [failure.reason for failure in pool._replace_worker(worker, None)]


def test_a_worker_that_dies_at_a_seed_is_blamed_on_it():
    scheduler = Scheduler([[]], 1)
    assert lose(pool_of(scheduler), 3, 4, at=4) == ["Thing-v0: step 2 of seed 4 ended its worker: SIGKILL"]
    assert scheduler.next_chunk(None, []) == (0, (3,))
    assert not scheduler


def test_one_that_dies_between_seeds_is_blamed_on_none_and_the_second_time_on_the_first():
    scheduler = Scheduler([[]], 1)
    pool = pool_of(scheduler)
    assert lose(pool, 3, 4) == []
    assert [scheduler.next_chunk(None, []), scheduler.next_chunk(0, [])] == [(0, (3,)), (0, (4,))]
    assert lose(pool, 3, 4) == ["Thing-v0: step 0 of seed 3 ended its worker: SIGKILL"]
    assert scheduler.next_chunk(None, []) == (0, (4,))
    assert not scheduler
