"""Lossless export of episodes to a Minari data set."""

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Tuple

from gato_agent.envs.errors import GatoError
from gato_agent.envs.make import find_spec
from gato_agent.envs.spaces.batch_of_one import is_object
from gato_agent.envs.spaces.flatten import batch
from gato_agent.envs.tasks.task import find
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.exported import errors_named, exported_indices, place_dataset
from gato_agent.rollouts.storage.minari.dataset import EXACT, load_minari, open_storage, read_episode
from gato_agent.rollouts.storage.task_folder import SPACES

ROOT = "MINARI_DATASETS_PATH"


def export(
    store: EpisodeStore, namespace: str, root: Path | None = None, about: Mapping[str, str | None] | None = None
) -> tuple[str, int]:
    """Write the episodes that pass the folder's filter as one HDF5 data set.

    Observations, executed actions, rewards and end flags are exact: they are read back and compared. The expert's
    labels are in the infos, if other actions were executed. Success, noise and `lost` are in the metadata of episodes.

    Args:
        store: store of the episodes.
        namespace: first part of the data set's id.
        root: folder of Minari's data sets.
        about: author, author_email, code_permalink.

    Returns:
        Id of the data set and its number of episodes.

    Raises:
        UsageError: Minari is missing, or has another data set of that id.
        GatoError: Minari cannot hold these episodes.
    """
    minari = load_minari()
    from minari.storage.datasets_root_dir import get_dataset_path

    dataset_id = re.sub(r"[^-\w/]", "_", f"{namespace}/{store.env_id}/{store.kind}") + "-v0"
    for name in SPACES:
        _check_keys(dataset_id, getattr(store, name))
    numbers = exported_indices(store)
    root = (root or Path(get_dataset_path())).absolute()

    def write(begun: Path) -> None:
        with _root(begun), errors_named(dataset_id, "Minari"):
            _write(minari, store, numbers, dataset_id, about or {})
            _compare(store, numbers, begun / dataset_id / "data")
        with _root(root), errors_named(dataset_id, "Minari"):
            _register(dataset_id)

    place_dataset(root, dataset_id, write, lambda target: _compare(store, numbers, target / "data"))
    return dataset_id, len(numbers)


def _write(
    minari: Any, store: EpisodeStore, numbers: list[int], dataset_id: str, about: Mapping[str, str | None]
) -> None:
    """Write episodes with Minari, into the folder of its environment variable."""
    from minari.data_collector import EpisodeBuffer

    def buffers() -> Iterator[Any]:
        for episode in map(store.fitting, numbers):
            last = np.arange(len(episode)) == len(episode) - 1
            yield EpisodeBuffer(
                seed=episode.seed,
                observations=_nested(store.observation_space, batch(store.observation_space, episode.observations)),
                actions=_nested(store.action_space, batch(store.action_space, episode.actions)),
                rewards=episode.rewards,
                terminations=last & episode.terminated,
                truncations=last & episode.truncated,
                infos=None if episode.labels is None else {
                    "expert_action": _nested(store.action_space, batch(store.action_space, episode.labels))
                },
            )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about every missing field
        dataset = minari.create_dataset_from_buffers(
            dataset_id, buffers(), observation_space=store.observation_space, action_space=store.action_space,
            algorithm_name=f"{store.kind}: {store.header['expert']['source']}", data_format="hdf5", jpeg_encoding=False,
            description=f"collected with gato-agent in {json.dumps(store.header['versions'])}",
            **{key: value for key, value in about.items() if value},
        )  # fmt: skip
        exact = {EXACT: {name: store.header[name] for name in SPACES}}
        dataset.storage.update_metadata(_scores(store) | _spec(store) | exact)
        stats = [store.stats(number) for number in numbers]
        known = ({"success": each.success, "noise": each.noise, "lost": each.lost or None} for each in stats)
        dataset.storage.update_episode_metadata([
            {key: value for key, value in each.items() if value is not None} for each in known
        ])  # fmt: skip


def _compare(store: EpisodeStore, numbers: list[int], data: Path) -> None:
    """Raise GatoError if a data set does not read back as the episodes of the store."""
    spaces, places = (store.observation_space, store.action_space), range(len(numbers))
    storage = open_storage(data)
    if (storage.observation_space, storage.action_space) != spaces:
        raise GatoError(f"Minari does not hold the spaces of {store.env_id} exactly, such as the dtype of a Discrete")
    if storage.total_episodes != len(numbers):
        raise GatoError(f"it has {storage.total_episodes} episodes instead of {len(numbers)}")
    for number, episode, more in zip(
        numbers, storage.get_episodes(places), storage.get_episode_metadata(places), strict=True
    ):
        stored, exported = store.read(number), read_episode(episode, more, spaces, {})
        known = {key: stored.provenance[key] for key in ("noise", "lost") if key in stored.provenance}
        same = replace(exported, seed=number, provenance=stored.provenance).to_bytes() == stored.to_bytes()
        if not same or exported.provenance != {"minari_seed": number} | known:
            raise GatoError(f"Minari does not hold episode {number} of {store.env_id} exactly")


def _check_keys(dataset_id: str, space: Space[Any]) -> None:
    """Raise GatoError for a key that is no valid name in HDF5, which splits names at "/"."""
    entries = space.spaces.items() if isinstance(space, Dict) else enumerate(getattr(space, "spaces", ()))
    for key, entry in entries:
        if isinstance(key, str) and ("/" in key or "\0" in key or key in ("", ".", "..")):
            raise GatoError(
                f'{dataset_id}: the key {key!r} of a Dict cannot be written to HDF5, which splits names at "/": '
                "rename it in a wrapper of the environment, and collect again"
            )
        _check_keys(dataset_id, entry)


def _register(dataset_id: str) -> None:
    """Make the namespace of a data set known to Minari."""
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = dataset_id.rpartition("/")[0]
    if namespace not in list_local_namespaces():
        create_namespace(namespace)


def _scores(store: EpisodeStore) -> dict[str, Any]:
    """Reference scores of the catalogue; empty if they are unknown or the environment has arguments."""
    task = None if store.env_kwargs else find(store.env_id)
    if task is None or task.random is None or task.expert is None:
        return {}
    return {
        "ref_min_score": task.random.mean,
        "ref_max_score": task.expert.mean,
        "num_episodes_average_score": task.expert.episodes,
    }


def _spec(store: EpisodeStore) -> dict[str, str]:
    """Id of the environment, and its spec if it is installed and serialisable as JSON."""
    named = {"env_id": store.env_id}
    try:
        spec = deepcopy(find_spec(store.env_id))
        spec.kwargs |= store.env_kwargs
        return named | {"env_spec": spec.to_json()}
    except (GatoError, TypeError, ValueError):
        return named


def _nested(space: Space[Any], values: Any) -> Any:
    """Values with texts as lists, because Minari treats a tuple as a value of a Tuple."""
    if isinstance(space, Dict):
        return {key: _nested(entry, values[key]) for key, entry in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_nested(entry, value) for entry, value in zip(space.spaces, values, strict=True))
    return list(values) if is_object(space) else values


@contextmanager
def _root(root: Path) -> Iterator[None]:
    """Set Minari's environment variable for its folder of data sets."""
    before = os.environ.get(ROOT)
    os.environ[ROOT] = str(root)
    try:
        yield
    finally:
        os.environ.pop(ROOT) if before is None else os.environ.update({ROOT: before})
