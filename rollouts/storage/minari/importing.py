"""Safe import of episodes from a Minari data set.

A data set's metadata contains an environment's spec with entry point and wrappers, from which Minari makes the
environment when it loads the data set. So its storage is opened here directly; of the spec only the id is used.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import GatoError, SpaceError, UsageError, one_line
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import parse
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.imported import ImportedEpisodes, check_files, folder_sha256, header_of
from gato_agent.rollouts.storage.minari.checks import METADATA, check_episodes, only_jpeg
from gato_agent.rollouts.storage.minari.dataset import load_minari, open_storage, read_episode, read_metadata

_log = logging.getLogger(__name__)
_warn = _log.warning


def import_(
    source: str, out: Path, env_id: str | None = None, *, clip_actions: bool = False, say: Callable[[str], None] = _warn
) -> EpisodeStore:
    """Store the episodes of a data set under their numbers; episodes that the folder already has are not read.

    Invalid episodes are left out (see `EpisodeValidator`).

    Args:
        source: folder of a data set, or its id; it is downloaded if Minari does not have it.
        out: folder of the task folders.
        env_id: id of the environment, if the data set does not name it.
        clip_actions: true to clip actions to the bounds of a Box; otherwise their episodes are left out.
        say: called with a line for each episode that is left out.

    Returns:
        The store, open for writing.

    Raises:
        UsageError: no such data set, no name of an environment, or spaces that cannot be tokenized.
        GatoError: the data set is damaged, or none of its episodes is valid; then nothing is stored.
        OSError: an episode could not be written.
    """
    folder = _local(source)
    check_files(folder)
    metadata = read_metadata(folder)
    name = str(metadata["dataset_id"])
    with _reading(folder):
        env_id = env_id or _env_id(metadata, folder)
        numbers = check_episodes(folder, metadata)
        storage = open_storage(folder, metadata)
        spaces = storage.observation_space, storage.action_space
        expert = {"kind": "minari", "source": name, "sha256": folder_sha256(folder)}
        header = header_of(env_id, spaces, expert, {"minari": str(metadata.get("minari_version"))})
        about = list(storage.get_episode_metadata(numbers))
    provenance = {key: header[key] for key in ("env_id", "env_kwargs", "expert", "versions")}

    def read(number: int) -> Episode:
        with only_jpeg(spaces):
            (data,) = storage.get_episodes([number])
        return read_episode(data, about[number], spaces, provenance)

    episodes = ImportedEpisodes(name, read, spaces, clip_actions=clip_actions, say=say)
    return episodes.store(out, header, {number: number for number in numbers})


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Convert the exceptions of a block to GatoErrors that name the data set."""
    try:
        yield
    except SpaceError as error:
        raise SpaceError(f"{folder}: {error}", error.key, error.row) from error
    except GatoError:
        raise
    except Exception as error:
        raise GatoError(f"{folder} cannot be read as a Minari data set: {one_line(error)}") from error


def _local(source: str) -> Path:
    """Folder of a data set's files; Minari downloads a public one, which executes none of its code."""
    path = Path(source)
    if path.is_dir():
        return path if (path / METADATA).is_file() else path / "data"
    load_minari()
    try:
        return _downloaded(source) / "data"
    except Exception as error:
        raise UsageError(f"no folder and no data set {source!r} that could be downloaded: {one_line(error)}") from error


def _downloaded(source: str) -> Path:
    """Minari's folder of a data set, which is downloaded if it does not exist.

    `minari.download_dataset` would also download all data sets that the metadata names.

    Raises:
        ValueError: the id is invalid or unknown.
        Exception: the remote's package raised.
    """
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path
    from minari.storage.remotes import get_cloud_storage

    kind, sep, rest = source.rpartition("://")  # hf://farama-minari/D4RL/door/human-v2
    owner, _, dataset_id = rest.partition("/") if sep else ("", "", source)
    parse_dataset_id(dataset_id)
    folder = Path(get_dataset_path(dataset_id))
    if not folder.is_dir():
        get_cloud_storage(f"{kind}://{owner}" if sep else None).download_dataset(dataset_id, get_dataset_path())
    if not folder.is_dir():
        raise ValueError(f"there is no {dataset_id}, or it cannot be reached")
    return folder


def _env_id(metadata: Mapping[str, Any], folder: Path) -> str:
    """Environment id in a data set's spec, of which nothing else is used, or beside it, as our export writes it."""
    try:
        env_id = parse(metadata["env_spec"], finite=False)["id"]
    except (KeyError, TypeError, ValueError):
        env_id = metadata.get("env_id")
    if not plain.is_env_id(env_id):
        raise UsageError(f"{folder} names no environment that could be used: give its id with --env")
    return str(env_id)
