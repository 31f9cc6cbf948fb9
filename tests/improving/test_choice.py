"""Stretches are chosen where they can be judged, and whole episodes where success tells good ones from bad."""

import dataclasses

import pytest

from gato_agent.envs.errors import UsageError
from gato_agent.improving.choice import choose
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from tests.helpers.improving import collected


@pytest.fixture
def groups(tmp_path):
    """A store of demonstrations, and two tries of a round."""
    return [
        [collected(tmp_path / "demos", seed=0, episodes=2)],
        [collected(tmp_path / name, seed=seed, episodes=3) for name, seed in (("one", 10), ("two", 20))],
    ]


def reporting(store: EpisodeStore, folder, success: bool) -> EpisodeStore:
    """Copy of a store whose first episode reports success or failure."""
    with EpisodeStore.create(folder, store.header) as target:
        episodes = [store.read(seed) for seed in store.indices()]
        episodes[0] = dataclasses.replace(episodes[0], success=success)
        target.commit([each.encode() for each in episodes])
    return target


def test_stretches_of_all_tries_and_demonstrations_by_default(groups):
    choice = choose(groups, None, None)
    assert choice is not None and choice.kind == "stretches with an advantage"
    assert {part.store for part in choice.parts} == {0, 1, 2}
    assert [part.number for part in choice.parts] == list(range(len(choice.parts)))
    kept = sum(part.stop - part.start for part in choice.parts)
    assert 0.2 < kept / sum(store.stats(seed).steps for store in choice.stores for seed in store.indices()) < 0.8


def test_the_bars_by_default_are_those_of_the_help(groups):
    def bar(length, quantile):
        choice = choose(groups, length, quantile)
        assert choice is not None
        return choice.bar

    assert bar(12, None) == bar(12, 0.8) != bar(12, 0.6)
    assert bar(0, None) == bar(0, 0.25)


@pytest.mark.parametrize("success", [True, False])
def test_whole_episodes_where_any_reports_success(groups, tmp_path, success):
    (one, two), report = groups[1], tmp_path / "reports"
    tries = [one, reporting(two, report, success)]
    choice = choose([tries], None, None)
    assert (choice is not None) == success
    if choice:
        assert [part.seed for part in choice.parts] == [20] and choice.kind == "episodes with a return"
    assert "stretches" in choose([tries], 4, None).kind


def test_a_higher_bar_keeps_less(groups):
    low, high = (choose(groups, None, quantile) for quantile in (0.2, 0.9))
    assert low.bar < high.bar
    assert sum(part.stop - part.start for part in low.parts) > sum(part.stop - part.start for part in high.parts)


def test_images_are_chosen_by_whole_episodes(tmp_path, monkeypatch):
    store = collected(tmp_path)
    monkeypatch.setattr("gato_agent.improving.choice.number_paths", lambda space: [])
    assert choose([[store]], None, None).kind == "episodes with a return"
    with pytest.raises(UsageError, match=r"--stretch 8: observations of CartPole-v1 have no numbers.*--stretch 0"):
        choose([[store]], 8, None)
