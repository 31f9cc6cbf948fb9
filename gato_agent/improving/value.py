"""Value of an observation: expected return from there on, by ridge regression on random features of its numbers.

The features are few and the regression is exact, so that the value takes seconds, and no second network.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Columns, leaves
from gato_agent.rollouts.storage.episode import Episode

FEATURES = 512
MOST = 1024  # numbers of an array; arrays of more, and of three dimensions, are images
BANDWIDTH = 0.5  # of the features, in inverse standard deviations of an observation's numbers
RIDGE = 1.0
TAIL = 0.02  # share of returns at each end that are cut: a few very low returns would rule the squared error

Array = NDArray[np.float64]


def number_paths(space: gym.Space[object]) -> list[str]:
    """Paths of an observation's leaves that are numbers, not text or images."""
    return [
        leaf.path for leaf in leaves(space)
        if leaf.dtype.kind in "biuf" and len(leaf.shape) < 3 and np.prod(leaf.shape) <= MOST
    ]  # fmt: skip


@dataclass(frozen=True)
class Value:
    """Linear function of random features.

    Attributes:
        paths: leaves of the observation that it sees, n numbers in all.
        centre: [n], mean of these numbers.
        scale: [n], their standard deviation.
        directions: [n, FEATURES].
        offsets: [FEATURES].
        coefficients: [FEATURES + 1], the last for a constant.
    """

    paths: tuple[str, ...]
    centre: Array
    scale: Array
    directions: Array
    offsets: Array
    coefficients: Array

    def __call__(self, observations: Columns) -> Array:
        """Expected return from each of T observations: [T]."""
        result: Array = self.features(observations) @ self.coefficients
        return result

    def features(self, observations: Columns) -> Array:
        """Random features and a constant: [T, FEATURES + 1]."""
        numbers = (_numbers(self.paths, observations) - self.centre) / self.scale
        hidden = np.tanh(numbers @ self.directions + self.offsets)
        return np.concatenate((hidden, np.ones((len(hidden), 1))), axis=1)


def fit_value(episodes: Callable[[], Iterable[Episode]], paths: Iterable[str]) -> Value:
    """Fit the value to the undiscounted returns that followed each observation.

    Args:
        episodes: function that reads the episodes; it is called twice, so that they need not fit into memory.
        paths: leaves of the observation to see.
    """
    paths, returns, count = tuple(paths), list[Array](), 0
    total = squares = np.zeros(1)
    for episode in episodes():
        numbers = _numbers(paths, episode.observations)[:-1]
        total, squares, count = total + numbers.sum(0), squares + (numbers**2).sum(0), count + len(numbers)
        returns.append(np.cumsum(episode.rewards[::-1])[::-1])
    low, high = np.quantile(np.concatenate(returns), (TAIL, 1 - TAIL))
    centre, rng = total / count, np.random.default_rng(0)
    scale = np.sqrt(np.maximum(squares / count - centre**2, 0.0))
    directions = BANDWIDTH * rng.normal(size=(len(centre), FEATURES))
    value = Value(
        paths, centre, np.where(scale > 0, scale, 1.0), directions, rng.normal(size=FEATURES), np.zeros(FEATURES + 1)
    )
    gram, target = RIDGE * np.eye(FEATURES + 1), np.zeros(FEATURES + 1)
    for episode, after in zip(episodes(), returns, strict=True):
        features = value.features({path: episode.observations[path][:-1] for path in paths})
        gram += features.T @ features
        target += features.T @ np.clip(after, low, high)
    return dataclasses.replace(value, coefficients=np.linalg.solve(gram, target).astype(np.float64))


def _numbers(paths: tuple[str, ...], observations: Columns) -> Array:
    """Numbers of some leaves: [T, n]."""
    columns = [observations[path] for path in paths]
    return np.concatenate([column.reshape(len(column), -1).astype(np.float64) for column in columns], axis=1)
