"""What returns are worth: normalised scores, and what many tasks amount to (Agarwal et al. 2021, as rliable has it).

A sample is the scores of one task's episodes. What is said of several tasks takes a sample of each, and intervals come
from a stratified bootstrap: each task's episodes are drawn again from that task's.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

FIRST_SEED = 1_000_000  # collection counts seeds from 0, evaluation from here
RESAMPLES = 2_000  # of all tasks together
TRIM = 0.25  # of the interquartile mean, at either end

Interval = tuple[float, float]
Sample = NDArray[np.float64]
Statistic = Callable[[list[Sample]], Sample]


def normalized(score: float, random: float | None, expert: float | None) -> float | None:
    """Score as a fraction of the way from random (0) to expert (1).

    None where that is undefined: a reference is missing, or the expert is no better than random.
    """
    if random is None or expert is None or expert <= random:
        return None
    return (score - random) / (expert - random)


def ci95(values: Sequence[float], seed: int = 0) -> Interval:
    """95% interval of the mean: percentile bootstrap with 10,000 resamples (`scipy.stats.bootstrap`)."""
    from scipy import stats  # takes a second to import, and playing needs none of it

    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return float(sample.mean()), float(sample.mean())
    generator = np.random.default_rng(seed)
    result = stats.bootstrap((sample,), np.mean, n_resamples=10_000, method="percentile", rng=generator)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def iqm(samples: list[Sample]) -> Sample:
    """Interquartile mean over all episodes of all tasks, as rliable has it with an episode for a run.

    Args:
        samples: of each task, [..., episodes]; leading dimensions are kept.
    """
    return _trimmed(np.concatenate(samples, axis=-1))


def iqm_of_tasks(samples: list[Sample]) -> Sample:
    """Interquartile mean over the tasks' means: success that is 0 or 1 is averaged before it is trimmed."""
    return _trimmed(means(samples))


def mean_of_tasks(samples: list[Sample]) -> Sample:
    """Mean over the tasks' means."""
    return np.asarray(means(samples).mean(axis=-1))


def means(samples: list[Sample]) -> Sample:
    """The tasks' means, [..., tasks]."""
    return np.stack([sample.mean(axis=-1) for sample in samples], axis=-1)


def above(samples: list[Sample], thresholds: Sequence[float]) -> Sample:
    """Performance profile: the share of tasks whose mean is above each threshold, [..., thresholds]."""
    return np.asarray((means(samples)[..., None] > np.asarray(thresholds)).mean(axis=-2))


def _trimmed(values: Sample) -> Sample:
    from scipy import stats

    return np.asarray(stats.trim_mean(values, TRIM, axis=-1))


def interval(statistic: Statistic, samples: list[Sample], seed: int = 0) -> tuple[Sample, Sample]:
    """95% interval of what is said of several tasks: low and high, each as `statistic` gives it."""
    drawn = statistic(_resampled(samples, np.random.default_rng(seed)))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return low, high


def _resampled(samples: list[Sample], generator: np.random.Generator) -> list[Sample]:
    """Each task's episodes, drawn again with replacement: [resamples, episodes]."""
    return [sample[generator.integers(len(sample), size=(RESAMPLES, len(sample)))] for sample in samples]


def improvement(ours: list[Sample], theirs: list[Sample], seed: int = 0) -> tuple[float, Interval]:
    """Probability of improvement: that an episode of ours beats one of theirs, ties half, averaged over the tasks.

    Args:
        ours: a sample of each task.
        theirs: of the same tasks.
        seed: of the bootstrap.

    Returns:
        The probability and its 95% interval.
    """
    generator = np.random.default_rng(seed)
    found = np.mean([_beaten(x, y) for x, y in zip(ours, theirs, strict=True)])
    pairs = zip(_resampled(ours, generator), _resampled(theirs, generator), strict=True)
    drawn = np.mean([_beaten(x, y) for x, y in pairs], axis=0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(found), (float(low), float(high))


def _beaten(x: Sample, y: Sample) -> Sample:
    """Mann and Whitney's U of x [..., n] and y [..., m] over n m, by ranks."""
    from scipy import stats

    n, m = x.shape[-1], y.shape[-1]
    ranks = stats.rankdata(np.concatenate([x, y], axis=-1), axis=-1)[..., :n]
    return np.asarray((ranks.sum(axis=-1) - n * (n + 1) / 2) / (n * m))
