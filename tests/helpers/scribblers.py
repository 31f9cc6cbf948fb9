"""Environments and actors that write into every array that they make or receive, after storing a copy for the test."""

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Space, Tuple
from gymnasium.vector.utils import batch_space

from tests.helpers.random_spaces import random_value


def scribble(value: Any) -> None:
    """Change every array of a nested value in place, and empty every dict and list."""
    if isinstance(value, np.ndarray):
        value[...] = ~value if value.dtype.kind in "biu" else "scribbled" if value.dtype == object else value - 3
        return
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        scribble(item)
    if isinstance(value, dict | list):
        value.clear()


def refill(old: Any, new: Any) -> Any:
    """Write a value into the arrays of an old one of the same form, as a program with one buffer does."""
    if isinstance(new, np.ndarray) and isinstance(old, np.ndarray) and old.shape == new.shape:
        old[...] = new
        return old
    if isinstance(new, dict) and isinstance(old, dict):
        parts = {key: refill(old.get(key), item) for key, item in new.items()}
        old.clear()
        old.update(parts)
        return old
    if isinstance(new, tuple) and isinstance(old, tuple):
        return tuple(refill(a, b) for a, b in zip(old, new, strict=True))
    return deepcopy(new)


class ScribblingEnv(gym.Env[Any, Any]):
    """Environment that returns one buffer at every step, and overwrites its actions.

    Attributes:
        seen: copies of all observations, by seed and in order.
        actions: copies of all received actions, by seed and in order.
        infos: copies of all infos, by seed and in order.
    """

    length = 4

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], share: dict[str, Any] | None = None):
        self.observation_space, self.action_space = deepcopy(observation_space), deepcopy(action_space)
        self.buffers: dict[str, Any] = {} if share is None else share
        info = {"array": np.zeros(2), "deep": {"array": np.zeros(2)}, "list": [np.zeros(2)]}
        self.info: dict[str, Any] = self.buffers.setdefault("info", info)
        self.seen: dict[int, list[Any]] = {}
        self.actions: dict[int, list[Any]] = {}
        self.infos: dict[int, list[Any]] = {}

    def observe(self) -> Any:
        value = random_value(self.rng, self.observation_space)
        self.seen[self.seed].append(deepcopy(value))
        self.buffers["observation"] = refill(self.buffers.get("observation"), value)
        return self.buffers["observation"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seed, self.rng = seed or 0, np.random.default_rng(seed)
        self.seen[self.seed], self.actions[self.seed], self.infos[self.seed], self.t = [], [], [], 0
        return self.observe(), self.info

    def step(self, action: Any) -> Any:
        self.actions[self.seed].append(deepcopy(action))
        scribble(action)
        self.t += 1
        for array in (self.info["array"], self.info["deep"]["array"], self.info["list"][0]):
            array[:] = self.rng.integers(100, size=2)
        self.infos[self.seed].append(deepcopy(self.info))
        return self.observe(), 1.0, self.t >= self.length, False, self.info


class ScribblingActor:
    """Actor that returns one buffer at every step, and overwrites its observations and flags.

    Attributes:
        seen: copies of all observations as they arrived, batches.
        starts: copies of all flags, likewise.
        chosen: copies of all actions as they were returned, batches.
        followed: copies of all actions that it was told of, batches.
    """

    lost = False

    def __init__(self, action_space: Space[Any], seed: int = 0) -> None:
        self.provenance = {"kind": "callable", "source": "scribbler", "sha256": ""}
        self._space, self._seed = action_space, seed
        self.buffer: Any = None
        self.seen: list[Any] = []
        self.starts: list[Any] = []
        self.chosen: list[Any] = []
        self.followed: list[Any] = []

    def seed(self, seed: int) -> None: ...

    def reset(self, num_envs: int) -> None:
        self.actions = batch_space(self._space, num_envs)
        self.rng = np.random.default_rng(self._seed)
        self.num_envs = num_envs

    def act(self, observation: Any, start: Any) -> Any:
        self.seen.append(deepcopy(observation))
        self.starts.append(start.tolist())
        scribble(observation)
        scribble(start)
        action = stacked(self._space, [random_value(self.rng, self._space) for _ in range(self.num_envs)])
        self.chosen.append(deepcopy(action))
        self.buffer = refill(self.buffer, action)
        return self.buffer

    def follow(self, observation: Any, action: Any, start: Any) -> None:
        self.seen.append(deepcopy(observation))
        self.starts.append(start.tolist())
        self.followed.append(deepcopy(action))
        scribble(observation)
        scribble(action)


def stacked(space: Space[Any], values: list[Any]) -> Any:
    """Batch of single values in `batch_space`."""
    if isinstance(space, Dict):
        return {key: stacked(child, [value[key] for value in values]) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(stacked(child, [value[i] for value in values]) for i, child in enumerate(space.spaces))
    return tuple(values) if isinstance(values[0], str) else np.stack(values)
