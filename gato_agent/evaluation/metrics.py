"""Metrics: expert-normalised scores, and aggregates over tasks with intervals (Agarwal et al. 2021; as in rliable).

A sample holds the scores of one task's episodes. Aggregates take a sample of each task. Their intervals come from a
stratified bootstrap, which resamples each task's episodes.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

FIRST_SEED = 1_000_000  # collection counts seeds from 0, evaluation from here
RESAMPLES = 2_000  # of the stratified bootstrap
TRIM = 0.25  # share trimmed at either end for the interquartile mean

Interval = tuple[float, float]
Sample = NDArray[np.float64]
Statistic = Callable[[list[Sample]], Sample]


def decimals(*values: float) -> int:
    """Number of decimals of returns that are shown together: 1, below 10 it is 2, and more if they differ by less."""
    spread = max(values) - min(values)
    least = 1 if max(map(abs, values)) >= 10 else 2
    return least if not 0 < spread < math.inf else min(max(least, math.ceil(-math.log10(spread))), 6)


def normalized(score: float, random: float | None, expert: float | None) -> float | None:
    """Expert-normalised score: 0 for the random score, 1 for the expert's.

    None where it is undefined: a reference is missing, or the expert is no better than random.
    """
    if random is None or expert is None or expert <= random:
        return None
    return (score - random) / (expert - random)


def ci95(values: Sequence[float], seed: int = 0) -> Interval:
    """95% interval of the mean: percentile bootstrap with 10,000 resamples (`scipy.stats.bootstrap`)."""
    from scipy import stats  # slow to import, and not needed for playing

    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return float(sample.mean()), float(sample.mean())
    generator = np.random.default_rng(seed)
    result = stats.bootstrap((sample,), np.mean, n_resamples=10_000, method="percentile", rng=generator)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def iqm(samples: list[Sample]) -> Sample:
    """Interquartile mean over all episodes of all tasks: rliable's IQM with an episode in place of a run.

    Args:
        samples: of each task, [..., episodes].
    """
    return _trimmed(np.concatenate(samples, axis=-1))


def iqm_of_tasks(samples: list[Sample]) -> Sample:
    """Interquartile mean over the tasks' means, which suits success rates: they are averaged before trimming."""
    return _trimmed(means(samples))


def means(samples: list[Sample]) -> Sample:
    """Means of the tasks, [..., tasks]."""
    return np.stack([sample.mean(axis=-1) for sample in samples], axis=-1)


def above(samples: list[Sample], thresholds: Sequence[float]) -> Sample:
    """Performance profile: the share of tasks whose mean is above each threshold, [..., thresholds]."""
    return np.asarray((means(samples)[..., None] > np.asarray(thresholds)).mean(axis=-2))


def _trimmed(values: Sample) -> Sample:
    from scipy import stats

    return np.asarray(stats.trim_mean(values, TRIM, axis=-1))


def interval(statistic: Statistic, samples: list[Sample], seed: int = 0) -> tuple[Sample, Sample]:
    """95% bootstrap interval of a statistic over tasks: low and high, each of the statistic's shape."""
    resampled = statistic(_resampled(samples, np.random.default_rng(seed)))
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return low, high


def _resampled(samples: list[Sample], generator: np.random.Generator) -> list[Sample]:
    """Bootstrap resamples of each task's episodes, [resamples, episodes]."""
    return [sample[generator.integers(len(sample), size=(RESAMPLES, len(sample)))] for sample in samples]


def improvement(first: list[Sample], second: list[Sample], seed: int = 0) -> tuple[float, Interval]:
    """Probability of improvement of one agent over another, averaged over tasks; a tie counts half.

    Args:
        first: a sample of each task, of the agent that improves.
        second: a sample of the same tasks, of the other.
        seed: of the bootstrap.

    Returns:
        The probability and its 95% interval.
    """
    generator = np.random.default_rng(seed)
    probability = np.mean([_win_rate(x, y) for x, y in zip(first, second, strict=True)])
    pairs = zip(_resampled(first, generator), _resampled(second, generator), strict=True)
    resampled = np.mean([_win_rate(x, y) for x, y in pairs], axis=0)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return float(probability), (float(low), float(high))


def _win_rate(x: Sample, y: Sample) -> Sample:
    """Mann-Whitney U of x [..., n] and y [..., m], divided by n m: P(x > y) + P(x = y) / 2."""
    from scipy import stats

    n, m = x.shape[-1], y.shape[-1]
    ranks = stats.rankdata(np.concatenate([x, y], axis=-1), axis=-1)[..., :n]
    return np.asarray((ranks.sum(axis=-1) - n * (n + 1) / 2) / (n * m))
