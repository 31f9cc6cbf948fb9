"""Episodes of several stores as one sequence, each read when it is reached."""

from collections.abc import Iterator, Sequence
from typing import overload

from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore


class UnreadEpisodes(Sequence[Episode]):
    """Sequence that reads an episode each time it is reached, so that two at most are in memory.

    Args:
        places: store and index of each episode.

    Raises:
        GatoError: on reading, as `EpisodeStore.fitting`.
    """

    def __init__(self, places: Sequence[tuple[EpisodeStore, int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._places)

    def __iter__(self) -> Iterator[Episode]:
        """Episodes in order."""
        return (store.fitting(index) for store, index in self._places)

    @overload
    def __getitem__(self, at: int) -> Episode: ...

    @overload
    def __getitem__(self, at: slice) -> "UnreadEpisodes": ...

    def __getitem__(self, at: int | slice) -> "Episode | UnreadEpisodes":
        """One episode, read; or a part of the sequence, unread."""
        if isinstance(at, slice):
            return UnreadEpisodes(self._places[at])
        store, index = self._places[at]
        return store.fitting(index)
