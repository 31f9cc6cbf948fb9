"""The package lerobot opens exported data sets, and its own are imported; it runs in an environment of its own.

`LEROBOT_PYTHON` names that environment's Python. Its lerobot is 0.4 with the versions that it asks for.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Text

from gato_agent.envs.spaces.flatten import space_to_json, stack
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from tests.helpers.episodes import HEADER
from tests.helpers.random_spaces import random_value

pytest.importorskip("pyarrow")
PYTHON = os.environ.get("LEROBOT_PYTHON", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason="LEROBOT_PYTHON names no Python with lerobot")]

SPACE = Dict(
    a=Dict(b=Box(-1, 1, (2,), np.float64), flags=MultiBinary(3)),
    gray=Box(0, 255, (20, 24, 1), np.uint8),
    grid=Box(0, 255, (7, 7, 3), np.uint8),
    image=Box(0, 255, (20, 24, 3), np.uint8),
    mission=Text(9, charset="ab"),
    state=Box(-np.inf, np.inf, (), np.float32),
)
ACTION = Dict(move=Box(-1, 1, (2,)), talk=Discrete(3))
READ = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset("gato/Thing-v0-sb3", root=sys.argv[1])
rows = [dataset[i] for i in range(len(dataset))]
plain = lambda v: v.tolist() if hasattr(v, "tolist") else v
images = ("observation.images.image", "observation.images.gray")
for row in rows:
    for name in images:
        row[name] = (row[name] * 255).round().permute(1, 2, 0)
print(json.dumps([{k: plain(v) for k, v in row.items()} for row in rows]))
"""
WRITE = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
features = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
    "observation.images.top": {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]},
    "observation.images.still": {"dtype": "image", "shape": (16, 20, 3), "names": ["height", "width", "channels"]},
    "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
}
dataset = LeRobotDataset.create("me/robot", 10, features, root=sys.argv[1])
for number in range(4):
    rng = np.random.default_rng(number)
    for step in range(5 + number):
        dataset.add_frame({
            "observation.state": rng.normal(size=3).astype("float32"),
            "observation.images.top": np.full((64, 96, 3), 20 * number + 10 * step, np.uint8),
            "observation.images.still": rng.integers(256, size=(16, 20, 3), dtype=np.uint8),
            "action": rng.normal(size=2).astype("float32"),
            "next.reward": np.array([step], np.float32),
            "next.done": np.array([step == 4 + number]),
            "task": f"move block {number % 2}",
        })
    dataset.save_episode()
dataset.finalize()
"""


def lerobot(code: str, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hub")}
    done = subprocess.run(
        [PYTHON, "-c", code, str(folder)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lerobot_reads_what_is_exported(tmp_path):
    from gato_agent.rollouts.storage.lerobot.exporting import export

    episodes = []
    for number in range(3):
        rng, steps = np.random.default_rng(number), 3 + number
        seen, acted = (
            stack(space, [random_value(rng, space) for _ in range(rows)])
            for space, rows in ((SPACE, steps + 1), (ACTION, steps))
        )
        episodes.append(Episode(seen, acted, None, rng.normal(size=steps), True, False, None, number))
    spaces = {"observation_space": space_to_json(SPACE), "action_space": space_to_json(ACTION)}
    with EpisodeStore.create(tmp_path, HEADER | spaces | {"env_id": "Thing-v0", "env_kwargs": {}}) as store:
        store.commit([episode.encode() for episode in episodes])
        export(store, "gato", tmp_path / "lerobot")
    rows = json.loads(lerobot(READ, tmp_path / "lerobot" / "gato" / "Thing-v0-sb3").splitlines()[-1])
    names = {"gray": "images.gray", "image": "images.image", "a/b": "a.b", "a/flags": "a.flags"}
    wanted = [(episode, step) for episode in episodes for step in range(len(episode))]
    for row, (episode, step) in zip(rows, wanted, strict=True):
        for path, column in episode.observations.items():
            same(row[f"observation.{names.get(path, path)}"], column[step])
        for path, column in episode.actions.items():
            same(row[f"action.{path}"], column[step])
        assert row["next.reward"] == np.float32(episode.rewards[step])  # torch.tensor of a Python number
        assert row["next.done"] == (step == len(episode) - 1)
        assert row["task"] == episode.observations["mission"][step]


def same(read: Any, value: Any) -> None:
    if isinstance(value, str):
        assert read == value
        return
    rounded = value.astype(np.float32) if value.dtype == np.float64 else value
    np.testing.assert_array_equal(np.asarray(read, rounded.dtype).reshape(np.shape(value)), rounded)


def test_what_lerobot_writes_is_imported(tmp_path):
    from gato_agent.rollouts.storage.lerobot.importing import import_

    lerobot(WRITE, tmp_path / "robot")
    with import_(tmp_path / "robot", tmp_path / "data", "Arm-v0") as store:
        assert store.indices() == [0, 1, 2, 3]
        for number in store.indices():
            episode, rng = store.read(number), np.random.default_rng(number)
            steps = 5 + number
            assert (len(episode), episode.terminated, episode.truncated) == (steps, True, False)
            assert episode.rewards.tolist() == list(range(steps))
            assert set(episode.observations["instruction"]) == {f"move block {number % 2}"}
            for step in range(steps):
                np.testing.assert_array_equal(episode.observations["state"][step], rng.normal(size=3).astype("f4"))
                still = rng.integers(256, size=(16, 20, 3), dtype=np.uint8)
                np.testing.assert_array_equal(episode.observations["still"][step], still)
                np.testing.assert_array_equal(episode.actions[""][step], rng.normal(size=2).astype("f4"))
            brightness = episode.observations["top"][:steps].mean(axis=(1, 2, 3))
            np.testing.assert_allclose(brightness, 20 * number + 10 * np.arange(steps), atol=3)  # AV1 is lossy
