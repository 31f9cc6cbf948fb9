"""Keys of environments whose actions have a direction, in the form of `--keys`.

The first entry whose pattern matches the id and whose actions are in the space is used. An entry without the empty
combination waits for a key at each step.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

Table = Mapping[str, Any]
AXES = (("left", "right"), ("down", "up"), ("a", "d"), ("s", "w"), ("q", "e"))  # keys to the low and the high bound
MOST_ACTIONS = 10  # of a Discrete space, one digit each

KNOWN: tuple[tuple[str, Table], ...] = (
    (r"CartPole-v", {"left": 0, "right": 1}),
    (r"(MountainCar|Acrobot)-v", {"": 1, "left": 0, "right": 2}),
    (r"LunarLander", {"": 0, "left": 1, "up": 2, "right": 3}),
    (r"LunarLander", {"": [0, 0], "left": [0, -1], "up": [1, 0], "right": [0, 1]}),
    (r"CarRacing", {"": [0, 0, 0], "left": [-1, 0, 0], "right": [1, 0, 0], "up": [0, 1, 0], "down": [0, 0, 0.8]}),
    (r"CarRacing", {"": 0, "right": 1, "left": 2, "up": 3, "down": 4}),
    (r"FrozenLake", {"left": 0, "down": 1, "right": 2, "up": 3}),
    (r"CliffWalking", {"up": 0, "right": 1, "down": 2, "left": 3}),
    (r"Taxi", {"down": 0, "up": 1, "right": 2, "left": 3, "space": 4, "tab": 5}),
    (r"Blackjack", {"s": 0, "h": 1}),
    (r"(MiniGrid|BabyAI)", {"left": 0, "right": 1, "up": 2, "tab": 3, "left shift": 4, "space": 5, "e": 6}),
    (r"MinAtar/.*-v0", {"": 0, "left": 1, "up": 2, "right": 3, "down": 4, "space": 5}),
    (r"MinAtar/SpaceInvaders-v1", {"": 0, "left": 1, "right": 2, "space": 3}),
    (r"MinAtar/Breakout-v1", {"": 0, "left": 1, "right": 2}),
    (r"MinAtar/Freeway-v1", {"": 0, "up": 1, "down": 2}),
    (r"MinAtar/Asterix-v1", {"": 0, "left": 1, "up": 2, "right": 3, "down": 4}),
)


def candidates(env_id: str, space: Space[Any]) -> Iterator[Table]:
    """Tables for an environment, the most specific first; none for a space without default keys."""
    yield from (table for pattern, table in KNOWN if re.match(pattern, env_id))
    if isinstance(space, Discrete) and space.n <= MOST_ACTIONS:
        yield {str(i): int(space.start) + i for i in range(int(space.n))}
    if isinstance(space, Box) and np.prod(space.shape, dtype=int) <= len(AXES):
        yield _axes(space)


def neutral(space: Box) -> Any:
    """Element of a Box that is nearest to zero."""
    return np.clip(np.zeros(space.shape), space.low, space.high).astype(space.dtype)


def _axes(space: Box) -> Table:
    """Two keys an element, to its bounds; to 1 beside zero where there is none."""
    rest = neutral(space).astype(np.float64)
    low = np.where(np.isfinite(space.low), space.low, rest - 1).ravel()
    high = np.where(np.isfinite(space.high), space.high, rest + 1).ravel()
    table: dict[str, Any] = {"": rest.tolist()}
    for i, keys in enumerate(AXES[: rest.size]):
        for key, bound in zip(keys, (low[i], high[i]), strict=True):
            action = rest.copy().ravel()
            action[i] = bound
            table[key] = action.reshape(space.shape).tolist()
    return table
