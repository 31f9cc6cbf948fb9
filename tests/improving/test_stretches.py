"""Stretches cover each episode, and those that bring more than expected are what is trained on."""

import numpy as np
import pytest

from gato_agent.improving.selection import Part, copy_selected
from gato_agent.improving.stretches import Stretch, encoded, joined, stretches
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from tests.helpers.improving import collected


def constant(level: float):
    """Value that is the same everywhere."""
    return lambda observations: np.full(len(observations[""]), level)


def test_stretches_cover_each_episode_from_its_end_and_their_rewards_are_its_return(tmp_path):
    store = collected(tmp_path, episodes=4)
    for length in (1, 5, 1000):
        found = stretches([store], constant(0.0), length)
        for seed in store.indices():
            own = [each for each in found if each.seed == seed]
            steps = store.stats(seed).steps
            assert [each.start for each in own] == [0, *(each.stop for each in own[:-1])] and own[-1].stop == steps
            assert [each.stop - each.start for each in own[1:]] == [length] * (len(own) - 1)
            assert sum(each.advantage for each in own) == store.stats(seed).total
            assert {each.store for each in own} == {0}


def test_the_advantage_has_the_value_of_both_ends_and_none_after_a_terminal_step(tmp_path):
    store = collected(tmp_path, episodes=1)  # random actions let the pole fall
    assert store.read(0).terminated
    *before, last = stretches([store], constant(7.0), 5)
    assert {each.advantage for each in before[1:]} == {5.0}
    assert last.advantage == 5.0 - 7.0


def test_those_that_follow_each_other_are_one_part():
    found = [
        Stretch(0, 4, 0, 3, 2.0), Stretch(0, 4, 3, 8, 1.0), Stretch(0, 4, 8, 13, 0.0), Stretch(0, 4, 13, 18, 5.0),
        Stretch(0, 5, 0, 3, 9.0), Stretch(1, 5, 3, 8, 9.0),
    ]  # fmt: skip
    assert joined(found[::-1], 1.0) == [
        Part(0, 0, 4, 0, 8), Part(1, 0, 4, 13, 18), Part(2, 0, 5, 0, 3), Part(3, 1, 5, 3, 8)
    ]  # fmt: skip
    assert joined(found, 10.0) == []


@pytest.mark.parametrize("noise", [False, True])
def test_a_part_is_an_episode_of_its_own(tmp_path, noise):
    options = {"expert": "catalogue", "noise": True} if noise else {}
    store = collected(tmp_path / "all", episodes=2, **options)
    whole = store.read(1)
    parts = [Part(0, 0, 1, 2, 9), Part(1, 0, 1, 9, len(whole))]
    with EpisodeStore.create(tmp_path / "parts", store.header) as target:
        copy_selected(target, parts, lambda part: encoded([store], part))
        middle, end = target.fitting(0), target.fitting(1)
    assert (middle.seed, middle.terminated, middle.truncated) == (0, False, True)
    assert (end.seed, end.terminated, end.truncated) == (1, whole.terminated, whole.truncated)
    np.testing.assert_array_equal(middle.observations[""], whole.observations[""][2:10])
    np.testing.assert_array_equal(end.observations[""], whole.observations[""][9:])
    for part, (start, stop) in ((middle, (2, 9)), (end, (9, len(whole)))):
        np.testing.assert_array_equal(part.actions[""], whole.actions[""][start:stop])
        np.testing.assert_array_equal(part.targets[""], whole.targets[""][start:stop])
        np.testing.assert_array_equal(part.rewards, whole.rewards[start:stop])
        assert (part.provenance["seed"], part.provenance["steps"]) == (1, [start, stop])
