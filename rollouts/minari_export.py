"""Episodes to a Minari data set, exactly."""

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
from gymnasium.spaces import Dict, Space, Text, Tuple

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import below
from gato_agent.envs.make import find_spec
from gato_agent.envs.structure import batch
from gato_agent.envs.task import find
from gato_agent.rollouts.keep import usable
from gato_agent.rollouts.minari import EXACT, SPACES, load_minari, read_episode
from gato_agent.rollouts.store import EpisodeStore

ROOT = "MINARI_DATASETS_PATH"


def export(
    store: EpisodeStore, namespace: str, root: Path | None = None, about: Mapping[str, str | None] | None = None
) -> tuple[str, int]:
    """Write the episodes that the folder's rule keeps as one HDF5 data set.

    Observations, executed actions, rewards and ends are exact: all is read back and compared. The expert's own actions
    are in the infos where noise or an agent's action was executed instead; success and noise are in the metadata of
    episodes.

    Args:
        store: whose episodes.
        namespace: first part of the id.
        root: where Minari is to look for it.
        about: author, author_email, code_permalink.

    Returns:
        Its id and the number of episodes.

    Raises:
        UsageError: Minari is missing, or has a data set of that id.
        GatoError: Minari cannot hold these episodes.
    """
    minari = load_minari()
    from minari.data_collector import EpisodeBuffer

    expert = store.header["expert"]
    dataset_id = re.sub(r"[^-\w/]", "_", f"{namespace}/{store.env_id}/{store.kind}") + "-v0"
    numbers = usable(store)

    def buffers() -> Iterator[Any]:
        for episode in map(store.read, numbers):
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

    with _root(root), warnings.catch_warnings():
        _check_links(dataset_id)
        warnings.simplefilter("ignore")  # it warns of every field that is left out
        try:
            dataset = minari.create_dataset_from_buffers(
                dataset_id, buffers(), observation_space=store.observation_space, action_space=store.action_space,
                algorithm_name=f"{store.kind}: {expert['source']}", data_format="hdf5", jpeg_encoding=False,
                description=f"collected with gato-agent in {json.dumps(store.header['versions'])}",
                **{key: value for key, value in (about or {}).items() if value},
            )  # fmt: skip
        except ValueError as error:
            if "already exists" in str(error):
                raise UsageError(f"{dataset_id}: {one_line(error)}; delete it, or give another --namespace") from error
            raise GatoError(f"{dataset_id}: Minari does not take these episodes: {one_line(error)}") from error
        exact = {EXACT: {name: store.header[name] for name in SPACES}}
        dataset.storage.update_metadata(_scores(store) | _spec(store) | exact)
        figures = [store.figures(number) for number in numbers]
        dataset.storage.update_episode_metadata([
            {key: value for key, value in (("success", each.success), ("noise", each.noise)) if value is not None}
            for each in figures
        ])  # fmt: skip
    _compare(store, numbers, dataset.storage, dataset_id)
    return dataset_id, len(numbers)


def _compare(store: EpisodeStore, numbers: list[int], storage: Any, dataset_id: str) -> None:
    """Raise GatoError if what can be read back is not what was to be written."""
    spaces, places = (store.observation_space, store.action_space), range(len(numbers))
    for number, data, more in zip(
        numbers, storage.get_episodes(places), storage.get_episode_metadata(places), strict=True
    ):
        ours, theirs = store.read(number), read_episode(data, more, spaces, {})
        if replace(theirs, seed=number, provenance=ours.provenance).to_bytes() != ours.to_bytes():
            raise GatoError(f"Minari does not hold episode {number} of {store.env_id} exactly: do not use {dataset_id}")


def _scores(store: EpisodeStore) -> dict[str, Any]:
    """Reference scores of the catalogue, where it knows both and the environment is its own."""
    task = None if store.env_kwargs else find(store.env_id)
    if task is None or task.random is None or task.expert is None:
        return {}
    return {
        "ref_min_score": task.random.mean,
        "ref_max_score": task.expert.mean,
        "num_episodes_average_score": task.expert.episodes,
    }


def _spec(store: EpisodeStore) -> dict[str, str]:
    """The environment's id, and its whole spec where it is installed and JSON can hold it."""
    named = {"env_id": store.env_id}
    try:
        spec = deepcopy(find_spec(store.env_id))
        spec.kwargs |= store.env_kwargs
        return named | {"env_spec": spec.to_json()}
    except (GatoError, TypeError, ValueError):
        return named


def _nested(space: Space[Any], values: Any) -> Any:
    """Minari takes a tuple for a Tuple, so texts must be a list."""
    if isinstance(space, Dict):
        return {key: _nested(entry, values[key]) for key, entry in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_nested(entry, value) for entry, value in zip(space.spaces, values, strict=True))
    return list(values) if isinstance(space, Text) else values


def _check_links(dataset_id: str) -> None:
    """Raise UsageError if a folder on the way to a data set is a link, which Minari would write through."""
    from minari.storage.datasets_root_dir import get_dataset_path

    folder = Path(get_dataset_path())
    for name in dataset_id.split("/"):
        folder = below(folder, name)


@contextmanager
def _root(root: Path | None) -> Iterator[None]:
    """Let Minari look there; it has no argument for it."""
    before = os.environ.get(ROOT)
    if root is not None:
        os.environ[ROOT] = str(root)
    try:
        yield
    finally:
        if root is not None:
            os.environ.pop(ROOT) if before is None else os.environ.update({ROOT: before})
