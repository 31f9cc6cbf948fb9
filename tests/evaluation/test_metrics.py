"""Normalised scores and intervals."""

import numpy as np
import pytest
from scipy import stats

from gato_agent.evaluation.metrics import above, ci95, decimals, improvement, interval, iqm, iqm_of_tasks, normalized


def test_normalised_score_is_a_fraction_of_the_way_to_the_expert() -> None:
    assert normalized(75.0, 50.0, 100.0) == 0.5
    assert normalized(-100.0, -200.0, 0.0) == 0.5
    assert normalized(120.0, 0.0, 100.0) == pytest.approx(1.2)
    assert normalized(-10.0, 0.0, 100.0) == pytest.approx(-0.1)


def test_it_is_undefined_without_references_or_a_better_expert() -> None:
    assert normalized(1.0, None, 2.0) is None
    assert normalized(1.0, 0.0, None) is None
    assert normalized(1.0, 2.0, 2.0) is None
    assert normalized(1.0, 3.0, 2.0) is None


def test_interval_covers_the_mean_in_nineteen_of_twenty_samples() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 2.0, (200, 50))
    covered = [low <= 3.0 <= high for low, high in map(ci95, samples)]
    assert 0.89 <= np.mean(covered) <= 0.99


def test_interval_of_equal_or_single_values_is_a_point() -> None:
    assert ci95([500.0] * 50) == (500.0, 500.0)
    assert ci95([7.0]) == (7.0, 7.0)


EIGHT = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([10.0, 11.0, 12.0, 100.0])]


def test_interquartile_mean_leaves_out_a_quarter_of_all_episodes_at_either_end() -> None:
    assert iqm(EIGHT) == (2 + 3 + 10 + 11) / 4  # of 0 1 | 2 3 10 11 | 12 100
    assert iqm_of_tasks([np.array([each, each + 2.0]) for each in (0.0, 4.0, 6.0, 50.0)]) == (5 + 7) / 2
    scores = np.random.default_rng(0).normal(size=(10, 9))  # as in rliable, runs x tasks
    assert iqm(list(scores.T)) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_profile_is_the_share_of_tasks_whose_mean_is_above_a_threshold() -> None:
    samples = [np.array([0.0, 1.0]), np.array([0.9, 0.9]), np.array([0.2, 0.2])]  # means .5, .9, .2
    assert above(samples, [0.0, 0.2, 0.5, 0.89, 0.9]) == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3, 0])


def test_the_stratified_interval_draws_each_task_from_itself() -> None:
    constant = [np.full(5, 0.2), np.full(5, 0.8)]
    assert interval(iqm_of_tasks, constant) == (0.5, 0.5)  # drawn across tasks, it would vary
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        samples = [rng.normal(mean, 0.5, 30) for mean in (0.2, 0.5, 0.8, 1.1)]
        low, high = interval(iqm_of_tasks, samples, seed=trial)
        covered += bool(low <= 0.65 <= high)
    assert 88 <= covered <= 100


def test_probability_of_improvement_is_that_of_mann_and_whitney() -> None:
    first, second = [np.array([1.0, 2.0, 3.0])], [np.array([0.0, 2.0])]
    result, (low, high) = improvement(first, second)
    assert result == pytest.approx((1 + 1 + 1 + 0 + 0.5 + 1) / 6)  # pairs won, a tie half
    assert low <= result <= high
    rng = np.random.default_rng(2)
    x, y = [list(rng.integers(0, 6, (4, 12)).astype(float)) for _ in range(2)]
    rliable = np.mean(
        [stats.mannwhitneyu(a, b, alternative="greater").statistic / 144 for a, b in zip(x, y, strict=True)]
    )
    assert improvement(x, y)[0] == pytest.approx(rliable)
    assert improvement(x, x)[0] == 0.5


@pytest.mark.parametrize(
    ("values", "places"),
    [((500.0,), 1), ((0.9,), 2), ((484.6, 469.3, 496.1), 1), ((0.931, 0.929, 0.934), 3), ((-0.01, 0.01), 2),
     ((100.0, 100.02), 2), ((0.5, 0.5 + 1e-12), 6), ((0.0, 0.0), 2)],
)  # fmt: skip
def test_returns_have_decimals_enough_to_tell_them_apart(values: tuple[float, ...], places: int) -> None:
    assert decimals(*values) == places
