"""Experts, collection of their episodes, and storage of episodes on disk."""

from typing import TYPE_CHECKING

from gato_agent.envs.io.lazy import lazy

if TYPE_CHECKING:
    from gato_agent.rollouts.experts.load import load_expert
    from gato_agent.rollouts.storage.episode import Episode
    from gato_agent.rollouts.storage.episode_store import EpisodeStore

__all__ = ["Episode", "EpisodeStore", "load_expert"]

__getattr__ = lazy(
    __name__,
    {
        "EpisodeStore": "gato_agent.rollouts.storage.episode_store",
        "Episode": "gato_agent.rollouts.storage.episode",
        "load_expert": "gato_agent.rollouts.experts.load",
    },
)
