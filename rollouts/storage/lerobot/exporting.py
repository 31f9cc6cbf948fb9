"""Export of episodes to a LeRobot data set."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from gymnasium.spaces import Text
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.spaces.flatten import Columns, leaves
from gato_agent.envs.spaces.views import EVERYTHING
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.exported import errors_named, exported_indices, place_dataset
from gato_agent.rollouts.storage.lerobot.columns import to_arrow
from gato_agent.rollouts.storage.lerobot.dataset import PREFIX, LeRobotFiles
from gato_agent.rollouts.storage.lerobot.features import IMAGES, Feature
from gato_agent.rollouts.storage.lerobot.reading import DONE, REWARD, EpisodeReader, own_features
from gato_agent.rollouts.storage.lerobot.writing import DatasetWriter
from gato_agent.rollouts.storage.task_folder import SPACES
from gato_agent.tokens.prompt import instruction_of, names_of

FPS = 30  # of LeRobot's recordings
FLAGS = {"terminated": pa.bool_(), "truncated": pa.bool_(), "success": pa.bool_(), "seed": pa.int64()}


def root_of_datasets() -> Path:
    """LeRobot's folder of data sets: $HF_LEROBOT_HOME, or lerobot in the folder of the Hugging Face hub."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Path(os.environ.get("HF_LEROBOT_HOME", f"{home}/lerobot")).expanduser()


def export(
    store: EpisodeStore, namespace: str, root: Path | None = None, *, fps: int = FPS, video: bool = False
) -> tuple[str, int]:
    """Write the episodes that pass the folder's filter as one data set.

    Observations, executed actions, labels, rewards, ends, seeds and the last observation are exact: they are read back
    and compared. Only videos are lossy, of which the sizes are compared.

    Args:
        store: store of the episodes.
        namespace: first part of the data set's id.
        root: folder of LeRobot's data sets.
        fps: frames a second, from which the timestamps follow.
        video: true for images of three channels as MP4, which is lossy; else they are PNG.

    Returns:
        Id of the data set and its number of episodes.

    Raises:
        UsageError: invalid options, or another data set of that id.
        GatoError: LeRobot cannot hold these episodes.
    """
    if fps < 1:
        raise UsageError(f"--fps {fps}: it must be at least 1")
    name = f"{store.env_id}-{store.kind}".replace("/", "-")
    repo_id = re.sub(r"[^-\w./]", "_", f"{namespace}/{name}")
    with errors_named(repo_id, "LeRobot"):
        own_features((store.observation_space, store.action_space), video=video)
    numbers = exported_indices(store)

    def write(begun: Path) -> None:
        with errors_named(repo_id, "LeRobot"):
            _write(store, numbers, begun / repo_id, fps, video)
            _compare(store, numbers, begun / repo_id)

    root = (root or root_of_datasets()).absolute()
    place_dataset(root, repo_id, write, lambda target: _compare(store, numbers, target, video=video))
    return repo_id, len(numbers)


def _write(store: EpisodeStore, numbers: list[int], folder: Path, fps: int, video: bool) -> None:
    observed, acted, labels = own_features((store.observation_space, store.action_space), video=video)
    labelled = any(store.read(number).labels is not None for number in numbers)
    rewards, done = Feature(REWARD, "float64", (1,)), Feature(DONE, "bool", (1,))
    features = [*observed.values(), *acted.values(), *(labels.values() if labelled else ()), rewards, done]
    writer = DatasetWriter(folder, features, fps)
    try:
        for number in numbers:
            episode = store.fitting(number)
            columns = _renamed(observed, {path: column[:-1] for path, column in episode.observations.items()})
            columns |= _renamed(acted, episode.actions)
            columns |= _renamed(labels, episode.targets) if labelled else {}
            ends = np.arange(len(episode)) == len(episode) - 1
            columns |= {REWARD: episode.rewards, DONE: ends & (episode.terminated or episode.truncated)}
            writer.add(columns, _texts(store, episode), _described(observed, episode))
        writer.close({PREFIX: {"env_id": store.env_id, **{name: store.header[name] for name in SPACES}}})
    finally:
        writer.abort()


def _renamed(features: Mapping[str, Feature], columns: Columns) -> dict[str, NDArray[Any]]:
    return {feature.name: columns[path] for path, feature in features.items()}


def _texts(store: EpisodeStore, episode: Episode) -> list[str]:
    """Text of the task in each frame: the instruction, the only text of the observation, or the environment's name."""
    paths = [leaf.path for leaf in leaves(store.observation_space) if isinstance(leaf.space, Text)]
    path = instruction_of(store.env_id, store.observation_space, EVERYTHING) or (paths[0] if len(paths) == 1 else None)
    if path is None:
        return names_of([store.env_id]) * len(episode)
    return [str(text) for text in episode.observations[path][:-1]]


def _described(observed: Mapping[str, Feature], episode: Episode) -> dict[str, pa.Array]:
    """Columns of an episode's description that LeRobot's format lacks: ends, seed, noise, `lost`, last observation."""
    row = {f"{PREFIX}/{name}": pa.array([getattr(episode, name)], kind) for name, kind in FLAGS.items()}
    row |= {
        f"{PREFIX}/noise": pa.array([episode.provenance.get("noise")], pa.float64()),
        f"{PREFIX}/lost": pa.array([episode.stats.lost], pa.bool_()),
        f"{PREFIX}/labels": pa.array([episode.labels is not None], pa.bool_()),
    }
    for path, feature in observed.items():
        still = feature._replace(dtype="image") if feature.dtype in IMAGES else feature
        row[f"{PREFIX}/final/{feature.name}"] = to_arrow(still, episode.observations[path][-1:])
    return row


def _compare(store: EpisodeStore, numbers: list[int], folder: Path, *, video: bool | None = None) -> None:
    """Raise GatoError if a data set does not read back as the episodes of the store; of videos, only the sizes do."""
    files = LeRobotFiles(folder)
    try:
        spaces = store.observation_space, store.action_space
        stored = any(feature.dtype == "video" for feature in files.features.values())
        if video is not None and stored != video:
            raise GatoError("it has images in another form")
        observed, acted, labels = own_features(spaces, video=stored)
        if files.own is None or any(files.own.get(name) != store.header[name] for name in SPACES):
            raise GatoError(f"it has other spaces than {store.env_id}")
        if list(files.episodes) != list(range(len(numbers))):
            raise GatoError(f"it has {len(files.episodes)} episodes instead of {len(numbers)}")
        reader = EpisodeReader(files, spaces, observed, acted, labels)
        lossy = [path for path, feature in observed.items() if feature.dtype == "video"]
        for place, number in enumerate(numbers):
            episode, exported = store.read(number), reader.read(place)
            images = {path: episode.observations[path] for path in lossy}
            if any(exported.observations[path].shape != image.shape for path, image in images.items()):
                raise GatoError(f"LeRobot does not hold the images of episode {number} of {store.env_id}")
            known = {key: episode.provenance[key] for key in ("noise", "lost") if key in episode.provenance}
            same = replace(
                exported, observations={**exported.observations, **images}, provenance=episode.provenance
            ).to_bytes()
            if same != episode.to_bytes() or exported.provenance != {"lerobot_episode": place} | known:
                raise GatoError(f"LeRobot does not hold episode {number} of {store.env_id} exactly")
    finally:
        files.close()
