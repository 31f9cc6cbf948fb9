"""Episodes and headers for tests of the store, and the contents of folders of episodes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from gato_agent.envs.spaces.flatten import Columns, space_to_json
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.task_folder import SPACES as SPACE_NAMES

TEXTS = ["go to the red ball", "", "naïve ☃ \U0001f916 \0 \ud800"]
SPACES = Box(-1, 1, (2,)), Discrete(3)
HEADER: dict[str, Any] = {
    "env_id": "ALE/Pong-v5",
    "env_kwargs": {"frameskip": 4},
    "observation_space": space_to_json(SPACES[0]),
    "action_space": space_to_json(SPACES[1]),
    "expert": {"kind": "sb3", "source": "model.zip", "sha256": "a" * 64},
    "noise": False,
    "versions": {"gymnasium": "1.4.0"},
}


def text(values: list[str]) -> np.ndarray:
    """A column of texts, object [B]."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def episode(labels: bool = True) -> Episode:
    """An episode of two steps with an image, a text, numbers and flags."""
    rng = np.random.default_rng(0)
    actions = {"": rng.integers(4, size=2)}
    return Episode(
        observations={
            "image": rng.integers(256, size=(3, 4, 4, 3), dtype=np.uint8),
            "mission": text(TEXTS),
            "state/0": rng.normal(size=(3, 5)).astype(np.float32),
            "done~1it": np.array([True, False, True]),
        },
        actions=actions,
        labels={"": (actions[""] + 1) % 4} if labels else None,
        rewards=np.array([0.1, -1e-300]),
        terminated=True,
        truncated=False,
        success=None,
        seed=7,
        provenance={"expert": {"kind": "random"}, "noise": 0.15},
    )


def varied(seed: int) -> Episode:
    """An `episode` whose labels, provenance, success and end depend on its seed."""
    provenance = {"expert": {"kind": "random"}, "noise": 0.15 * (seed % 2)}
    return replace(
        episode(labels=seed % 3 == 0),
        seed=seed,
        success=(None, True, False)[seed % 3],
        truncated=seed % 2 == 0,
        provenance=provenance,
    )


def stored(root: Path, *episodes: Episode, spaces: tuple[Space[Any], Space[Any]], **header: Any) -> EpisodeStore:
    """A store of `Thing-v0` below a folder, open for writing, with these episodes."""
    described = dict(zip(SPACE_NAMES, map(space_to_json, spaces), strict=True))
    store = EpisodeStore.create(root, HEADER | described | {"env_id": "Thing-v0", "env_kwargs": {}} | header)
    store.commit([episode.encode() for episode in episodes])
    return store


def assert_equal(a: Columns, b: Columns) -> None:
    """Assert that columns are equal in paths, values and dtypes."""
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])
        assert a[path].dtype == b[path].dtype


def contents(root: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def indices(root: Path) -> dict[str, list[int]]:
    """Environment id -> seeds of the episodes below a folder."""
    return {store.env_id: store.indices() for store in open_stores(root)}
