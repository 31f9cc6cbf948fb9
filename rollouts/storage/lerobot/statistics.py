"""Statistics of features, by which LeRobot's policies normalize; of images, each channel from 0 to 1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gato_agent.rollouts.storage.lerobot.features import IMAGES, Feature

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MOST_IMAGES = 100  # of an episode

Statistics = dict[str, NDArray[Any]]


def statistics_of(feature: Feature, column: NDArray[Any]) -> Statistics:
    """Minimum, maximum, mean, standard deviation, count and quantiles of a feature in an episode.

    Args:
        feature: numbers, or images.
        column: [B, *shape].
    """
    image = feature.dtype in IMAGES
    if image:
        column = column[:: max(1, len(column) // MOST_IMAGES)][:MOST_IMAGES]
    values = column.astype(np.float64) / (255.0 if image else 1.0)
    axes: Any = (0, 1, 2) if image else 0
    with np.errstate(over="ignore", invalid="ignore"):
        result = {
            "min": values.min(axis=axes), "max": values.max(axis=axes), "mean": values.mean(axis=axes),
            "std": values.std(axis=axes),
        } | {name: np.quantile(values, share, axis=axes) for name, share in QUANTILES.items()}  # fmt: skip
    shape: tuple[int, ...] = (-1, 1, 1) if image else feature.shape
    finite = {name: np.nan_to_num(value).reshape(shape) for name, value in result.items()}
    return finite | {"count": np.array([len(column)])}


def joined(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of several episodes; a quantile is the mean over the episodes, which is LeRobot's definition."""
    counts = np.array([float(part["count"][0]) for part in parts])
    weights = counts / counts.sum()

    def mean(name: str) -> NDArray[Any]:
        return np.asarray(np.tensordot(weights, np.stack([part[name] for part in parts]), axes=1))

    with np.errstate(over="ignore", invalid="ignore"):
        middle = mean("mean")
        squares = np.stack([part["std"] ** 2 + (part["mean"] - middle) ** 2 for part in parts])
        spread = np.sqrt(np.tensordot(weights, squares, axes=1))
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": middle, "std": np.nan_to_num(spread),
        "count": np.array([int(counts.sum())]),
        **{name: mean(name) for name in QUANTILES},
    }  # fmt: skip
