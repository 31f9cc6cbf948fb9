"""Safe import of episodes from a Minari data set.

A data set's metadata contains an environment's spec with entry point and wrappers, from which Minari makes the
environment when it loads the data set. So its storage is opened here directly; of the spec only the id is used.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from gymnasium.spaces import Space

from gato_agent.envs.errors import GatoError, SpaceError, UsageError, one_line
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import parse
from gato_agent.envs.spaces.flatten import space_from_json, space_to_json
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore, indices_of
from gato_agent.rollouts.storage.minari.checks import METADATA, check_episodes, check_files, only_jpeg
from gato_agent.rollouts.storage.minari.dataset import SPACES, load_minari, open_storage, read_episode, read_metadata
from gato_agent.rollouts.storage.validate import EpisodeValidator, check_learnable
from gato_agent.rollouts.storage.writer import EpisodeWriter, Played

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
    with _reading(folder):
        env_id = env_id or _env_id(metadata, folder)
        numbers = check_episodes(folder, metadata)
        storage = open_storage(folder, metadata)
        spaces = storage.observation_space, storage.action_space
        header = _header(env_id, spaces, metadata, _sha256(folder))
        for name in SPACES:
            space_from_json(header[name])  # refuses spaces that are too large to be read again
    if not numbers:
        raise GatoError(f"{source}: the data set holds no episodes")
    check_learnable(env_id, *spaces)
    provenance = {key: header[key] for key in ("env_id", "env_kwargs", "expert", "versions")}
    reader = _Reader(storage, str(metadata["dataset_id"]), spaces, provenance, clip_actions, say)
    missing = sorted(set(numbers).difference(indices_of(out, env_id)))
    episodes = reader.episodes(folder, missing)
    first = next(episodes, None)  # before a folder is made, which might stay empty
    if missing and first is None and len(missing) == len(numbers):
        raise GatoError(f"{source}: none of {len(numbers):,} episodes are valid: {reader.reason}")
    store = EpisodeStore.create(out, header)
    _write(store, episodes if first is None else chain([first], episodes))
    return store


def _header(
    env_id: str, spaces: tuple[Space[Any], Space[Any]], metadata: Mapping[str, Any], sha256: str
) -> dict[str, Any]:
    """Header of a task's folder, task.json."""
    return {
        "env_id": env_id,
        "env_kwargs": {},
        "observation_space": space_to_json(spaces[0]),
        "action_space": space_to_json(spaces[1]),
        "expert": {"kind": "minari", "source": str(metadata["dataset_id"]), "sha256": sha256},
        "noise": False,
        "versions": {"minari": str(metadata.get("minari_version"))},
    }


def _write(store: EpisodeStore, episodes: Iterable[Episode]) -> None:
    """Write episodes to a store, which an error closes."""
    try:
        with EpisodeWriter([store]) as writer:
            for episode in episodes:
                writer.add(Played(0, episode.seed, episode.encode(), len(episode), episode.total, 0.0))
                writer.poll()
    except BaseException:
        store.close()
        raise


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


class _Reader:
    """Reads episodes, and leaves out those that are not valid."""

    def __init__(
        self, storage: Any, name: str, spaces: tuple[Space[Any], Space[Any]], provenance: dict[str, Any],
        clip_actions: bool, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.reason = ""
        self._storage, self._name, self._spaces, self._provenance = storage, name, spaces, provenance
        self._validator, self._clip, self._say = EpisodeValidator(*spaces, clip_actions=clip_actions), clip_actions, say

    def episodes(self, folder: Path, numbers: list[int]) -> Iterator[Episode]:
        """Yield the valid episodes of these numbers; exceptions of the consumer are not caught."""
        with _reading(folder):
            about = list(self._storage.get_episode_metadata(numbers))
        for number, more in zip(numbers, about, strict=True):
            try:
                with only_jpeg(self._spaces):
                    (data,) = self._storage.get_episodes([number])
                episode = self._validator.validate(read_episode(data, more, self._spaces, self._provenance))
            except Exception as error:  # noqa: BLE001  # one damaged episode does not affect the others
                reason = str(error) if isinstance(error, GatoError) else one_line(error)
                self.reason = self.reason or f"episode {number}: {reason}"
                hint = "" if self._clip or "beyond its bounds" not in reason else " (--clip-actions clips actions)"
                self._say(f"{self._name}: episode {number} is left out: {reason}{hint}")
                continue
            yield episode


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


def _sha256(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                sha.update(block)
    return sha.hexdigest()
