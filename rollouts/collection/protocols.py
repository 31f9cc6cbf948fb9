"""What workers ask of what they play: jobs, and players that turn seeds of a job into results."""

from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import Any, Protocol

from gato_agent.rollouts.collection.episode_worker import Players, Result


class Work(Protocol):
    """A job: all that it takes to play its seeds anywhere. It is pickled."""

    @property
    def env_id(self) -> str:
        """The registered id, for messages."""

    def where(self, seed: int, step: int) -> str:
        """How far it was, from what its heartbeat says: the subject of a sentence about what went wrong."""


class Plays(Protocol):
    """Plays seeds of any of several jobs; made in the worker."""

    def play(self, job: int, seeds: Sequence[int], heartbeat: MutableSequence[int]) -> Iterator[Result]:
        """Yield a result for every seed, and move the heartbeat meanwhile: it is dead when it no longer moves."""


MakePlayers = Callable[[Sequence[Any]], Plays]
Watch = Callable[[int, int], None]  # is told the job that a worker is at, and the heartbeat's STEP
EPISODES: MakePlayers = Players


def nobody(job: int, step: int) -> None:
    """Watch nothing."""
