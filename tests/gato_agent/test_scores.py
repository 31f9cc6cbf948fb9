"""Normalised scores and intervals."""

import numpy as np
import pytest

from gato_agent.scores import ci95, normalized


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
