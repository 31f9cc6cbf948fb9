"""Verification of every file of a folder of episodes."""

from collections.abc import Iterator
from pathlib import Path

from gato_agent.envs.errors import GatoError, reason
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import read_filter
from gato_agent.rollouts.storage.shard import WAY_OUT, Shard
from gato_agent.rollouts.storage.task_folder import task_folders
from gato_agent.rollouts.storage.validate import EpisodeValidator


def verify(root: Path) -> tuple[int, list[str]]:
    """Read and validate all episodes below a folder.

    Returns:
        The number of valid episodes, and a line for each damaged file or episode, with the way out.

    Raises:
        UsageError: there is no task.
    """
    sound, problems = 0, []
    for folder in task_folders(root):
        try:
            store = EpisodeStore(folder)
            read_filter(folder)
        except (GatoError, OSError) as error:
            problems.append(reason(error))
            continue
        validator = EpisodeValidator(store.observation_space, store.action_space)
        for each in _episodes(store):
            problem = each if isinstance(each, str) else store.mismatch(each) or _invalid(store, validator, each)
            if problem is None:
                sound += 1
            else:
                problems.append(problem)
    return sound, problems


def _episodes(store: EpisodeStore) -> Iterator[Episode | str]:
    """Yield every episode of every file, or a message on its damage."""
    for path in store.shard_paths():
        try:
            shard = Shard(path)
        except (GatoError, OSError) as error:
            yield reason(error)
            continue
        for seed in shard.seeds:
            try:
                yield shard.read(seed)
            except GatoError as error:
                yield str(error)


def _invalid(store: EpisodeStore, validator: EpisodeValidator, episode: Episode) -> str | None:
    """Message on an invalid value of an episode; None if all are valid."""
    try:
        validator.validate(episode)
    except GatoError as error:
        return f"{store.folder}: episode {episode.seed}: {error}; {WAY_OUT}"
    return None
