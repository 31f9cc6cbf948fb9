"""Read every file of a folder of episodes, and name those that are damaged."""

from collections.abc import Iterator
from pathlib import Path

from gato_agent.envs.errors import GatoError, reason
from gato_agent.envs.files import read_own
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore, task_folders
from gato_agent.rollouts.storage.filter import read_filter
from gato_agent.rollouts.storage.held import EpisodeHolder
from gato_agent.rollouts.storage.shard import WAY_OUT, Shard


def verify(root: Path) -> tuple[int, list[str]]:
    """Read everything below a folder.

    Returns:
        How many episodes are sound, and a line for each file or episode that is not, with the way out.

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
        holder = EpisodeHolder(store.observation_space, store.action_space)
        for found in _episodes(store):
            problem = found if isinstance(found, str) else store.mismatch(found) or _unheld(store, holder, found)
            if problem is None:
                sound += 1
            else:
                problems.append(problem)
    return sound, problems


def _episodes(store: EpisodeStore) -> Iterator[Episode | str]:
    """Every episode of every file, or what is wrong with it."""
    for seed in store.single():
        path = store.path(seed)
        try:
            episode = Episode.from_bytes(read_own(path))
        except OSError as error:
            yield reason(error)
            continue
        except GatoError as error:
            yield f"{path}: {error}; {WAY_OUT}"
            continue
        yield episode if episode.seed == seed else f"{path} holds episode {episode.seed}, not {seed}; {WAY_OUT}"
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


def _unheld(store: EpisodeStore, holder: EpisodeHolder, episode: Episode) -> str | None:
    """A line on what of an episode cannot be held; None if all can."""
    try:
        holder.hold(episode)
    except GatoError as error:
        return f"{store.folder}: episode {episode.seed}: {error}; {WAY_OUT}"
    return None
