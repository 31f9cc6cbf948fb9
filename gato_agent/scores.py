"""What a return is worth: normalised scores and intervals."""

from collections.abc import Sequence

import numpy as np

FIRST_SEED = 1_000_000  # collection counts seeds from 0, evaluation from here


def normalized(score: float, random: float | None, expert: float | None) -> float | None:
    """Score as a fraction of the way from random (0) to expert (1).

    None where that is undefined: a reference is missing, or the expert is no better than random.
    """
    if random is None or expert is None or expert <= random:
        return None
    return (score - random) / (expert - random)


def ci95(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean: percentile bootstrap with 10,000 resamples (`scipy.stats.bootstrap`)."""
    from scipy import stats  # takes a second to import, and playing needs none of it

    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return float(sample.mean()), float(sample.mean())
    generator = np.random.default_rng(seed)
    result = stats.bootstrap((sample,), np.mean, n_resamples=10_000, method="percentile", rng=generator)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
