"""The best try of each seed is chosen, and it must not be below the bar."""

from functools import partial

import pytest

from gato_agent.improving.selection import (
    CHUNK,
    Candidate,
    Part,
    above,
    alike,
    all_equal,
    bar_of,
    best_tries,
    copy_selected,
)
from gato_agent.improving.stretches import encoded
from gato_agent.rollouts.storage.episode import EpisodeStats
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from tests.helpers.episodes import contents
from tests.helpers.improving import collected


def stats(total: float, success: bool | None = None) -> EpisodeStats:
    return EpisodeStats(10, total, success, 0.0)


def test_an_easy_seed_does_not_push_out_a_hard_one():
    """Each try of seed 1 is better than any of seed 2, and yet the best of each is chosen."""
    tries = [{1: stats(90.0), 2: stats(-5.0)}, {1: stats(100.0), 2: stats(3.0)}, {1: stats(95.0), 2: stats(1.0)}]
    assert best_tries(tries) == [Candidate(1, 1, 100.0), Candidate(1, 2, 3.0)]


def test_of_equal_tries_the_first_is_chosen_which_is_the_greedy_one():
    assert best_tries([{1: stats(2.0)}, {1: stats(2.0)}], first=5) == [Candidate(5, 1, 2.0)]


def test_where_success_is_reported_only_successes_are_chosen():
    tries = [{1: stats(9.0, False), 2: stats(0.0, False)}, {1: stats(1.0, True), 2: stats(0.0, False)}]
    assert best_tries(tries) == [Candidate(1, 1, 1.0)]
    assert best_tries([{1: stats(0.0, False)}, {1: stats(0.0)}]) == []


def test_a_task_that_reports_success_only_when_it_occurs():
    assert best_tries([{1: stats(0.0)}, {1: stats(0.5, True), 2: stats(1.0)}]) == [Candidate(1, 1, 0.5)]


def test_a_seed_that_one_try_lacks():
    assert best_tries([{1: stats(1.0)}, {2: stats(0.0)}]) == [Candidate(0, 1, 1.0), Candidate(1, 2, 0.0)]


@pytest.mark.parametrize(("quantile", "bar"), [(0.0, -1.0), (0.25, 1.0), (0.5, 2.0), (0.99, 3.0)])
def test_the_bar_is_the_return_of_a_candidate_so_that_something_passes(quantile, bar):
    totals = [3.0, -1.0, 1.0, 2.0, 4.0]
    assert bar_of(totals, quantile) == bar
    assert above([Candidate(0, seed, total) for seed, total in enumerate(totals)], bar)


def test_earlier_rounds_and_demonstrations_below_the_bar_are_left_out():
    candidates = [Candidate(0, 5, 9.0), Candidate(1, 6, 10.0), Candidate(2, 7, 11.0)]
    assert above(candidates, 10.0) == [Part(6, 1, 6), Part(7, 2, 7)]


def test_of_a_seed_in_two_stores_the_better_episode_is_chosen():
    assert above([Candidate(0, 5, 2.0), Candidate(1, 5, 3.0), Candidate(2, 5, 3.0)], 0.0) == [Part(5, 1, 5)]


def test_tries_are_alike_where_most_episodes_are_as_long_and_as_good():
    greedy = {1: stats(1.0), 2: stats(2.0), 3: stats(3.0)}
    assert alike(greedy, greedy | {3: stats(9.0)})
    assert not alike(greedy, greedy | {2: stats(9.0), 3: stats(9.0)})
    assert not alike(greedy, {seed: each._replace(steps=11) for seed, each in greedy.items()})


def test_equal_tries_leave_nothing_to_select():
    assert all_equal([{1: stats(500.0)}, {1: stats(500.0), 2: stats(500.0)}])
    assert not all_equal([{1: stats(500.0)}, {1: stats(499.0)}])
    assert not all_equal([{1: stats(0.0, False)}, {1: stats(0.0, True)}])


def test_a_copy_that_was_cut_short_is_completed(tmp_path, monkeypatch):
    """Episodes keep their bytes and their provenance; a second run copies what is missing."""
    stores = [collected(tmp_path / name, seed, 5) for name, seed in (("one", 0), ("two", 3))]
    chosen = {0: 0, 2: 0, 4: 1, 6: 1}
    parts, read = [Part(seed, place, seed) for seed, place in chosen.items()], partial(encoded, stores)
    monkeypatch.setattr("gato_agent.improving.selection.CHUNK", 2)
    assert CHUNK > 2
    with EpisodeStore.create(tmp_path / "part", stores[0].header) as target:
        commit, calls = target.commit, []

        def cut(episodes):
            if calls:
                raise KeyboardInterrupt
            calls.append(commit(episodes))

        monkeypatch.setattr(target, "commit", cut)
        with pytest.raises(KeyboardInterrupt):
            copy_selected(target, parts, read)
        assert target.indices() == [0, 2]
    for name in ("part", "whole"):
        with EpisodeStore.create(tmp_path / name, stores[0].header) as target:
            copy_selected(target, parts, read)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
    copy = EpisodeStore(next((tmp_path / "whole").iterdir()))
    assert copy.indices() == list(chosen)
    for seed, place in chosen.items():
        assert copy.read(seed).to_bytes() == stores[place].read(seed).to_bytes()


def test_an_episode_that_ends_where_the_expert_was_lost_is_no_candidate():
    """A few steps of -1 have a larger return than a whole episode."""
    cut = EpisodeStats(5, -5.0, None, 0.0, lost=True)
    whole = EpisodeStats(100, -100.0, None, 0.0)
    assert [(each.seed, each.total) for each in best_tries([{1: cut, 2: cut}, {1: whole}])] == [(1, -100.0)]
