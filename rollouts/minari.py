"""Episodes from a Minari data set, without running anything that it says.

A data set's metadata can make Minari run code when it is loaded: it holds an environment's whole spec, with entry point
and wrappers. So its storage is opened here with spaces of our own reading, and of the spec only the id is taken.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Text, Tuple

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.strict_json import parse
from gato_agent.envs.structure import columns, space_to_json
from gato_agent.rollouts.commit import Committer
from gato_agent.rollouts.episode import Episode
from gato_agent.rollouts.player import Played
from gato_agent.rollouts.store import EpisodeStore, check_learnable, is_env_id

SPACES = ("observation_space", "action_space")


def import_(source: str, out: Path, env_id: str | None = None) -> EpisodeStore:
    """Store the episodes of a data set, numbered as there; what is in the folder already is not read again.

    Args:
        source: folder of a data set, or its id; if Minari does not have it locally it is downloaded.
        out: folder of the task folders.
        env_id: of the environment, where the data set does not say it.

    Returns:
        The store, open for writing.

    Raises:
        UsageError: no such data set, or one that names no environment, or spaces that nothing can learn from.
        GatoError: it is damaged.
        OSError: an episode could not be written.
    """
    folder = _local(source)
    metadata = _metadata(folder)
    env_id = env_id or _env_id(metadata, folder)
    with _reading(folder):
        storage = open_storage(folder, metadata)
        spaces = storage.observation_space, storage.action_space
        header = {
            "env_id": env_id,
            "env_kwargs": {},
            "observation_space": space_to_json(spaces[0]),
            "action_space": space_to_json(spaces[1]),
            "expert": {"kind": "minari", "source": str(metadata["dataset_id"]), "sha256": _sha256(folder)},
            "noise": False,
            "versions": {"minari": str(metadata.get("minari_version"))},
        }
        numbers = range(int(metadata["total_episodes"]))
    check_learnable(env_id, *spaces)
    provenance = {key: header[key] for key in ("env_id", "env_kwargs", "expert", "versions")}
    store = EpisodeStore.create(out, header)
    try:
        missing = sorted(set(numbers).difference(store.indices()))
        with Committer([store]) as committer:
            for episode in _episodes(folder, storage, missing, spaces, provenance):
                played = Played(0, episode.seed, episode.encode(), len(episode), episode.total, 0.0)
                committer.add(played)
                committer.turn()
    except BaseException:
        store.close()
        raise
    return store


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Say of whatever goes wrong inside that the data set cannot be read."""
    try:
        yield
    except GatoError:
        raise
    except Exception as error:
        raise GatoError(f"{folder} cannot be read as a Minari data set: {one_line(error)}") from error


def _episodes(
    folder: Path, storage: Any, numbers: list[int], spaces: tuple[Space[Any], Space[Any]], provenance: dict[str, Any]
) -> Iterator[Episode]:
    """Read those episodes; what is done with them in the meantime is not taken for a failure of the data set."""
    with _reading(folder):
        about = storage.get_episode_metadata(numbers)
        for data, more in zip(storage.get_episodes(numbers), about, strict=True):
            yield read_episode(data, more, spaces, provenance)


def read_episode(
    data: Mapping[str, Any], more: Mapping[str, Any], spaces: tuple[Space[Any], Space[Any]], provenance: dict[str, Any]
) -> Episode:
    """One episode from a data set's arrays and the metadata that it has for it.

    Raises:
        SpaceError: an array is not of its space.
    """
    infos = data["infos"] or {}
    actions = columns(spaces[1], data["actions"])
    labels = columns(spaces[1], _of_infos(spaces[1], infos["expert_action"])) if "expert_action" in infos else None
    reported = [infos[key] for key in ("success", "is_success") if key in infos] or [
        more[key] for key in ("success",) if key in more
    ]
    seed = more.get("seed")
    known = {"minari_seed": int(seed)} if seed is not None else {}
    noise = {"noise": float(more["noise"])} if "noise" in more else {}
    terminated = bool(data["terminations"][-1])
    return Episode(
        observations=columns(spaces[0], data["observations"]),
        actions=actions,
        labels=labels,
        rewards=np.asarray(data["rewards"], np.float64),
        terminated=terminated,
        truncated=bool(data["truncations"][-1]) or not terminated,  # where the recording ended, the episode was cut
        success=bool(any(map(np.any, reported))) if reported else None,
        seed=int(data["id"]),
        provenance=provenance | known | noise,
    )


def _of_infos(space: Space[Any], value: Any) -> Any:
    """A batch as it was before it was written as infos, where a tuple is a group and a text is bytes."""
    if isinstance(space, Dict):
        return {key: _of_infos(entry, value[key]) for key, entry in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_of_infos(entry, value[f"_index_{i}"]) for i, entry in enumerate(space.spaces))
    return [text.decode() for text in value] if isinstance(space, Text) else value


def _local(source: str) -> Path:
    """The folder with a data set's files; a public one is downloaded by Minari, which runs nothing in doing so."""
    path = Path(source)
    if path.is_dir():
        return path if (path / "metadata.json").is_file() else path / "data"
    minari = load_minari()
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        if not get_dataset_path(source).is_dir():
            minari.download_dataset(source)
        return Path(get_dataset_path(source)) / "data"
    except Exception as error:
        raise UsageError(f"no folder and no data set {source!r} that could be downloaded: {one_line(error)}") from error


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    try:
        metadata = parse(path.read_bytes(), finite=False)
    except FileNotFoundError:
        raise UsageError(f"{folder} is no Minari data set: it has no metadata.json") from None
    except ValueError as error:
        raise GatoError(f"{path} is damaged ({error}): download it again") from error
    if not isinstance(metadata, dict) or not {"dataset_id", "total_episodes", *SPACES} <= metadata.keys():
        raise GatoError(f"{path} lacks an id, the number of episodes or spaces: download it again")
    return metadata


def _env_id(metadata: Mapping[str, Any], folder: Path) -> str:
    """The id in a data set's spec, of which nothing else is read, or beside it, where our own export puts it."""
    try:
        env_id = parse(metadata["env_spec"], finite=False)["id"]
    except (KeyError, TypeError, ValueError):
        env_id = metadata.get("env_id")
    if not is_env_id(env_id):
        raise UsageError(f"{folder} names no environment that could be used: give its id with --env")
    return str(env_id)


def open_storage(folder: Path, metadata: Mapping[str, Any] | None = None) -> Any:
    """Open the arrays with spaces read from JSON, past Minari's own opening, which makes the environment.

    Args:
        folder: `data` of a data set.
        metadata: of it, if it is read already.
    """
    load_minari()
    from minari.dataset._storages import get_minari_storage
    from minari.serialization import deserialize_space

    metadata = _metadata(folder) if metadata is None else metadata
    spaces = [deserialize_space(parse(metadata[name], finite=False)) for name in SPACES]
    jpeg = bool(metadata.get("jpeg_encoding", True))
    return get_minari_storage(metadata.get("data_format", "hdf5"))(folder, *spaces, jpeg_encoding=jpeg)


def _sha256(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                sha.update(block)
    return sha.hexdigest()


def load_minari() -> Any:
    """Import Minari; raises UsageError with the extra that brings it."""
    try:
        import minari
    except ImportError as error:
        raise UsageError(f"Minari is missing ({one_line(error)}): pip install 'gato-agent[minari]'") from error
    return minari
