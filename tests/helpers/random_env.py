"""An environment whose spaces, dtypes, infos, lengths and faults are drawn from a number.

make("tests.helpers.random_env:Random-v0", env_kwargs={"number": 7})
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

from tests.helpers.random_spaces import random_space, random_value

FAULTS = ("nan", "beyond", "shape", "raise", "exit", "reward", "ends", "info", "none")  # one in seven environments each
REWARDS: list[Any] = [1.0, 0, -3, True, np.float32(0.5), np.array(2.0), np.array([1.5]), np.int8(-1)]


def odd_space(rng: np.random.Generator) -> Space[Any]:
    """Draw a rare space: many values, stacked images, or parts without elements."""
    odd: list[Space[Any]] = [
        Discrete(4672), Discrete(1031, start=-5), MultiDiscrete([3, 2000]), Box(0, 255, (4, 20, 24), np.uint8),
        Box(0, 255, (2, 16, 16, 3), np.uint8), Dict(a=Discrete(2), b=Dict(), c=Tuple(()), d=Box(-1, 1, (0, 2))),
    ]  # fmt: skip
    return odd[rng.integers(len(odd))]


class RandomEnv(gym.Env[Any, Any]):
    """Environment with episodes of 1 to 8 steps, a function of `number` and the episode's seed."""

    metadata = {"render_modes": None}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng(number)
        draw = lambda: odd_space(rng) if rng.random() < 0.15 else random_space(rng, 2)  # noqa: E731
        self.observation_space, self.action_space = draw(), draw()
        self.fault = FAULTS[rng.integers(len(FAULTS))] if rng.random() < 0.5 else ""
        self.sloppy, self.reuses, self.scribbles = rng.random(3) < 0.3

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[Any, Any]]:
        super().reset(seed=seed)
        self.rng = np.random.default_rng([seed or 0, 99])
        self.t, self.length = 0, int(self.rng.integers(1, 9))
        self.due = int(self.rng.integers(1, 9)) if self.fault and self.rng.random() < 0.5 else 0
        self.observation: Any = None
        return self.observe(), self.info()

    def step(self, action: Any) -> Any:
        self.t += 1
        assert self.action_space.contains(action), action
        if self.scribbles:
            scribble(action)
        fault = self.fault if self.t == self.due else ""
        if fault == "raise":
            raise ValueError("the arm is stuck")
        if fault == "exit":
            raise SystemExit(0)
        reward: Any = [np.nan, np.inf, None, "1", 10**400, np.zeros(2)][self.rng.integers(6)]
        if fault != "reward":
            reward = REWARDS[self.rng.integers(len(REWARDS))]
        end: Any = self.t >= self.length
        end = [end, np.array([end]), int(end)][self.rng.integers(3)] if self.sloppy else end
        info: Any = None if fault == "info" else self.info()
        return self.observe(fault), reward, np.zeros(2) if fault == "ends" else end, False, info

    def observe(self, fault: str = "") -> Any:
        value = random_value(self.rng, self.observation_space)
        if self.reuses and self.observation is not None:
            overwrite(self.observation, value)
            value = self.observation
        self.observation = value
        if fault == "none":
            return None
        if fault in ("nan", "beyond", "shape"):
            return spoil(value, fault)
        return loosen(self.rng, value) if self.sloppy else value

    def info(self) -> dict[Any, Any]:
        kinds: list[Any] = [np.arange(self.rng.integers(5)), "text", None, {"deep": [1, np.zeros(2)]}, object()]
        found = {"moves": kinds[self.rng.integers(len(kinds))], "n": self.t}
        return found | ({"is_success": self.t >= self.length} if self.rng.random() < 0.5 else {})


def leaves_of(value: Any) -> list[np.ndarray]:
    """Arrays of a nested value."""
    if isinstance(value, dict):
        return [array for item in value.values() for array in leaves_of(item)]
    if isinstance(value, tuple | list):
        return [array for item in value for array in leaves_of(item)]
    return [value] if isinstance(value, np.ndarray) else []


def scribble(value: Any) -> None:
    """Write zeros into all arrays of a value, as a careless environment does."""
    for array in leaves_of(value):
        array[...] = 0


def overwrite(value: Any, other: Any) -> None:
    """Copy the arrays of `other` into those of a value."""
    for array, new in zip(leaves_of(value), leaves_of(other), strict=True):
        array[...] = new


def loosen(rng: np.random.Generator, value: Any) -> Any:
    """An equal value of another dtype or type."""
    if isinstance(value, dict):
        return {key: loosen(rng, item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [loosen(rng, item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype != object:
        wide = value.astype(
            np.float64 if value.dtype.kind == "f" else object if value.dtype.itemsize == 8 else np.int64
        )
        return [value, wide if wide.dtype != object else value, value.tolist()][rng.integers(3)]
    return value


def spoil(value: Any, fault: str) -> Any:
    """An invalid value of the same form: NaNs, numbers beyond all bounds, or another shape."""
    if isinstance(value, dict):
        return {key: spoil(item, fault) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(spoil(item, fault) for item in value)
    if isinstance(value, str):
        return value + 100 * "x"
    if fault == "shape":
        return np.zeros((*np.shape(value), 2))
    return np.full(np.shape(value), np.nan if fault == "nan" else 2.0**70)


gym.register("Random-v0", entry_point="tests.helpers.random_env:RandomEnv")
