"""Whom a lost worker is blamed on, without any process."""

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
    """One that is stuck in its exit: only a kill ends it."""

    exitcode: int | None = None

    def join(self, timeout: float | None = None) -> None:
        assert self.exitcode is not None or timeout is not None  # else for ever

    def kill(self) -> None:
        self.exitcode = -9


def lose(pool: _Pool, *seeds: int, at: int = NOTHING) -> list[Any]:
    """What is said when a worker with those seeds dies at one of them, or at none."""
    connection = SimpleNamespace(close=lambda: None)
    given = deque([(0, deque(seeds))])
    worker: Any = SimpleNamespace(process=Process(), connection=connection, given=given, heartbeat=[0, at, 2, 0])
    pool._workers.append(worker)
    return [failure.reason for failure in pool._bury(worker, None)]


def test_a_worker_that_dies_at_a_seed_is_blamed_on_it():
    scheduler = Scheduler([[]], 1)
    assert lose(pool_of(scheduler), 3, 4, at=4) == ["Thing-v0: step 2 of seed 4 ended its worker: SIGKILL"]
    assert scheduler.deal(None, []) == (0, (3,))
    assert not scheduler


def test_one_that_dies_between_seeds_is_blamed_on_none_and_the_second_time_on_the_first():
    scheduler = Scheduler([[]], 1)
    pool = pool_of(scheduler)
    assert lose(pool, 3, 4) == []
    assert [scheduler.deal(None, []), scheduler.deal(0, [])] == [(0, (3,)), (0, (4,))]
    assert lose(pool, 3, 4) == ["Thing-v0: step 0 of seed 3 ended its worker: SIGKILL"]
    assert scheduler.deal(None, []) == (0, (4,))
    assert not scheduler
