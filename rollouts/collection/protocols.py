"""Protocols of the pools: jobs, and players that turn seeds of a job into results."""

from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import Any, Protocol

from gato_agent.rollouts.collection.episode_worker import Players, Result


class Job(Protocol):
    """Picklable description of a job, with which any worker can play its seeds."""

    @property
    def env_id(self) -> str:
        """Registered id of the environment, for messages."""

    def where(self, seed: int, step: int) -> str:
        """Position of a heartbeat as the subject of a sentence, such as `step 3 of seed 7`."""


class SeedPlayer(Protocol):
    """Player of the seeds of several jobs, made in the worker."""

    def play(self, job: int, seeds: Sequence[int], heartbeat: MutableSequence[int]) -> Iterator[Result]:
        """Yield a result for every seed, and update the heartbeat at every step; a stopped heartbeat is a time-out."""


MakePlayers = Callable[[Sequence[Any]], SeedPlayer]
Watch = Callable[[int, int], None]  # called with a worker's job and the STEP of its heartbeat
EPISODES: MakePlayers = Players


def ignore(job: int, step: int) -> None:
    """Do nothing."""
