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

import numpy as np
from gymnasium.spaces import Dict, Space, Text, Tuple

from gato_agent.envs.errors import GatoError, SpaceError, UsageError, one_line
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import parse
from gato_agent.envs.spaces.flatten import Columns, columns, space_from_json, space_to_json
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore, indices_of
from gato_agent.rollouts.storage.minari_check import METADATA, check_episodes, check_files, only_jpeg
from gato_agent.rollouts.storage.validate import EpisodeValidator, check_learnable
from gato_agent.rollouts.storage.writer import EpisodeWriter, Played

SPACES = ("observation_space", "action_space")
EXACT = "gato_spaces"  # key of the metadata with both spaces in the format of `space_to_json`

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
    metadata = _metadata(folder)
    with _reading(folder):
        env_id = env_id or _env_id(metadata, folder)
        numbers = check_episodes(folder, metadata)
        storage = open_storage(folder, metadata)
        spaces = storage.observation_space, storage.action_space
        header = _header(env_id, spaces, metadata, _sha256(folder))
        for name in SPACES:
            space_from_json(header[name])  # refuses spaces that are too large to be read again
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


def read_episode(
    data: Mapping[str, Any], more: Mapping[str, Any], spaces: tuple[Space[Any], Space[Any]], provenance: dict[str, Any]
) -> Episode:
    """Make an episode of a data set's arrays and metadata.

    Raises:
        GatoError: an array is not in its space.
    """
    infos = data["infos"] or {}
    actions = _columns("actions", spaces[1], data["actions"])
    if not len(data["rewards"]):
        raise GatoError("it has no steps")
    wanted = infos.get("expert_action")
    labels = None if wanted is None else _columns("labels", spaces[1], _restored(spaces[1], wanted))
    reported = [infos[key] for key in ("success", "is_success") if key in infos] or [
        more[key] for key in ("success",) if key in more
    ]
    seed = more.get("seed")
    known = {"minari_seed": int(seed)} if seed is not None else {}
    noise = {"noise": float(more["noise"])} if "noise" in more else {}
    terminated = bool(data["terminations"][-1])
    return Episode(
        observations=_columns("observations", spaces[0], data["observations"]),
        actions=actions,
        labels=labels,
        rewards=data["rewards"],
        terminated=terminated,
        truncated=bool(data["truncations"][-1]) or not terminated,  # the end of the recording truncates the episode
        success=bool(any(map(np.any, reported))) if reported else None,
        seed=int(data["id"]),
        provenance=provenance | known | noise,
    )


def _restored(space: Space[Any], value: Any) -> Any:
    """Action of an info in the form of its space: Minari stores tuples of infos as dicts, and texts as bytes."""
    if isinstance(space, Dict):
        return {key: _restored(entry, value[key]) for key, entry in space.spaces.items() if key in value}
    if isinstance(space, Tuple) and isinstance(value, Mapping):
        entries = [(f"_index_{i}", entry) for i, entry in enumerate(space.spaces)]
        return tuple([_restored(entry, value.get(key, ())) for key, entry in entries])
    if isinstance(space, Text):
        return [text.decode() if isinstance(text, bytes) else text for text in value]
    return value


def _columns(group: str, space: Space[Any], values: Any) -> Columns:
    """Columns of observations, actions or labels; raises GatoError naming the group and the step."""
    try:
        return columns(space, values)
    except SpaceError as error:
        raise GatoError(f"{group}{'' if error.row is None else f', step {error.row}'}: {error}") from error


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


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    try:
        metadata = parse(path.read_bytes(), finite=False)
    except FileNotFoundError:
        raise UsageError(f"{folder} is no Minari data set: it has no {METADATA}") from None
    except ValueError as error:
        raise GatoError(f"{path} is damaged ({error}): download it again") from error
    if not isinstance(metadata, dict) or not {"dataset_id", "total_episodes", *SPACES} <= metadata.keys():
        raise GatoError(f"{path} lacks an id, the number of episodes or spaces: download it again")
    return metadata


def _env_id(metadata: Mapping[str, Any], folder: Path) -> str:
    """Environment id in a data set's spec, of which nothing else is used, or beside it, as our export writes it."""
    try:
        env_id = parse(metadata["env_spec"], finite=False)["id"]
    except (KeyError, TypeError, ValueError):
        env_id = metadata.get("env_id")
    if not plain.is_env_id(env_id):
        raise UsageError(f"{folder} names no environment that could be used: give its id with --env")
    return str(env_id)


def open_storage(folder: Path, metadata: Mapping[str, Any] | None = None) -> Any:
    """Open the arrays of a data set with spaces from its JSON; no environment is made.

    Args:
        folder: folder `data` of a data set.
        metadata: its metadata, if the files are already checked.

    Raises:
        UsageError: the folder has no data set.
        GatoError: the data set is damaged, or refers to other files.
    """
    if metadata is None:
        check_files(folder)
        metadata = _metadata(folder)
        check_episodes(folder, metadata)
    load_minari()
    from minari.dataset._storages import get_minari_storage

    spaces = _spaces(metadata)
    jpeg = bool(metadata.get("jpeg_encoding", True))
    return get_minari_storage(metadata.get("data_format", "hdf5"))(folder, *spaces, jpeg_encoding=jpeg)


def _spaces(metadata: Mapping[str, Any]) -> tuple[Space[Any], Space[Any]]:
    """Spaces of a data set, exact if our export wrote it; Minari's format lacks the dtypes of Discrete."""
    from minari.serialization import deserialize_space

    if isinstance(exact := metadata.get(EXACT), dict):
        return space_from_json(exact[SPACES[0]]), space_from_json(exact[SPACES[1]])
    observed, acted = (deserialize_space(parse(metadata[name], finite=False)) for name in SPACES)
    return observed, acted


def _sha256(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                sha.update(block)
    return sha.hexdigest()


def load_minari() -> Any:
    """Import Minari; raises UsageError with the extra to install."""
    try:
        import minari
    except ImportError as error:
        raise UsageError(f"Minari is missing ({one_line(error)}): pip install 'gato-agent[minari]'") from error
    return minari
