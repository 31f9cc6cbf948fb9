"""Reading of Minari's files: spaces, storage, and episodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Text, Tuple

from gato_agent.envs.errors import GatoError, SpaceError, UsageError, one_line
from gato_agent.envs.files import read_named
from gato_agent.envs.io.strict_json import parse
from gato_agent.envs.spaces.flatten import Columns, columns, space_from_json
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.imported import check_files
from gato_agent.rollouts.storage.minari.checks import METADATA, check_episodes
from gato_agent.rollouts.storage.task_folder import SPACES

EXACT = "gato_spaces"  # key of the metadata with both spaces in the format of `space_to_json`


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
    noise: dict[str, Any] = {"noise": float(more["noise"])} if "noise" in more else {}
    noise |= {"lost": True} if more.get("lost") else {}
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


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read metadata.json of a data set; raises UsageError without one, GatoError if it is damaged."""
    path = folder / METADATA
    try:
        metadata = parse(read_named(path), finite=False)
    except FileNotFoundError:
        raise UsageError(f"{folder} is no Minari data set: it has no {METADATA}") from None
    except ValueError as error:
        raise GatoError(f"{path} is damaged ({error}): download it again") from error
    if not isinstance(metadata, dict) or not {"dataset_id", "total_episodes", *SPACES} <= metadata.keys():
        raise GatoError(f"{path} lacks an id, the number of episodes or spaces: download it again")
    return metadata


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
        metadata = read_metadata(folder)
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


def load_minari() -> Any:
    """Import Minari; raises UsageError with the extra to install."""
    try:
        import minari
    except ImportError as error:
        raise UsageError(f"Minari is missing ({one_line(error)}): pip install 'gato-agent[minari]'") from error
    return minari
