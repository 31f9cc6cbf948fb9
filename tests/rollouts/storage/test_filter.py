"""The paper's filter of episodes, and its edge cases."""

import json

import numpy as np
import pytest

from gato_agent.cli import run
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode import EpisodeStats
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.filter import (
    EpisodeFilter,
    expert_return,
    filtered_indices,
    read_filter,
    training_indices,
    write_filter,
)
from tests.helpers.episodes import HEADER, varied


def stats(returns, success=None):
    return [EpisodeStats(1, float(total), success, 0.0) for total in returns]


def test_the_experts_return_is_the_best_mean_of_a_tenth_in_a_row():
    returns = np.zeros(40)
    returns[10:14] = 8, 9, 10, 9
    returns[30] = 30
    assert expert_return(returns) == 9.0
    assert expert_return(np.array([3.0, 5.0, 4.0])) == 5.0
    many = np.concatenate([np.zeros(19_000), np.ones(1000)])
    assert expert_return(many) == 1.0  # at most 1,000 in a row


@pytest.mark.parametrize(
    ("returns", "kept"),
    [
        ([100, 80, 79.9, 0], [True, True, False, False]),
        ([-100, -119, -121, -200], [True, True, False, False]),  # a fifth below, as above
        ([0, 0, -1], [True, True, False]),
        ([5], [True]),
        ([], []),
    ],
)
def test_episodes_near_the_experts_return_are_kept(returns, kept):
    assert EpisodeFilter(keep_above=0.8).apply(stats(returns)) == kept


def test_an_episode_that_ends_where_the_expert_was_lost_is_not_compared():
    """A few steps of -1 have a larger return than a whole episode."""
    cut = EpisodeStats(1, -5.0, None, 0.0, lost=True)
    assert EpisodeFilter(keep_above=0.8).apply([cut, *stats([-100, -119, -121])]) == [False, True, True, False]
    assert EpisodeFilter(keep_above=0.8).apply([cut]) == [False]
    assert EpisodeFilter().apply([cut]) == [True]


def test_success_counts_where_there_is_such_a_thing():
    assert EpisodeFilter(success_only=True).apply([*stats([1], True), *stats([2], False), *stats([3])]) == [
        True,
        False,
        False,
    ]
    assert EpisodeFilter(success_only=True).apply(stats([1, 2])) == [True, True]
    both = EpisodeFilter(keep_above=0.8, success_only=True)
    assert both.apply([*stats([10, 1], True), *stats([10], False)]) == [True, False, False]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1, float("nan")])
def test_shares_that_cannot_be_are_refused(tmp_path, share):
    with pytest.raises(UsageError, match=r"--above .*: it must be above 0, and at most 1"):
        collect(CollectConfig(env=("CartPole-v1",), keep_above=share, out=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_collecting_marks_and_nothing_is_lost(tmp_path):
    settings = {"env": ("CartPole-v1",), "expert": "random", "workers": 0, "out": tmp_path}
    collect(CollectConfig(**settings, episodes=30, keep_above=0.8))
    (store,) = open_stores(tmp_path)
    assert store.indices() == list(range(30))
    some = filtered_indices(store)
    bound = 0.8 * expert_return(np.array([store.stats(i).total for i in range(30)]))
    assert some == [i for i in range(30) if store.stats(i).total >= bound]
    assert 0 < len(some) < 30
    collect(CollectConfig(**settings, episodes=40))  # the rule stays, and looks at all of them
    assert read_filter(store.folder) == EpisodeFilter(keep_above=0.8)
    assert len(filtered_indices(store)) != len(some)
    (store.folder / "keep.json").unlink()
    assert filtered_indices(store) == list(range(40))


def test_a_filter_is_chosen_changed_and_removed_by_one_command(tmp_path, capsys):
    collect(CollectConfig(env=("CartPole-v1",), expert="random", workers=0, episodes=30, out=tmp_path))
    (store,) = open_stores(tmp_path)
    for folder, above in ((tmp_path, 0.8), (store.folder, 0.5)):
        assert run(["data", "filter", str(folder), "--above", str(above)]) == 0
        assert read_filter(store.folder) == EpisodeFilter(keep_above=above)
        used = len(training_indices(store))
        assert 0 < used < 30 and f"CartPole-v1: {used} of 30 episodes are used" in capsys.readouterr().out
    assert run(["data", "filter", str(tmp_path)]) == 0
    assert not (store.folder / "keep.json").exists() and len(training_indices(store)) == 30
    with pytest.raises(UsageError, match=r"--above 2.0: it must be above 0"):
        run(["data", "filter", str(tmp_path), "--above", "2"])


def test_former_options_of_collect_name_the_command(tmp_path, capsys):
    run(["collect", "--env", "CartPole-v1", "--expert", "random", "--episodes", "1", "--workers", "0", "--out",
         str(tmp_path), "--keep-above", "0.8"])  # fmt: skip
    assert f"gato-agent data filter {tmp_path} --above 0.8" in capsys.readouterr().err


def test_a_rule_that_keeps_nothing_is_named(tmp_path):
    with EpisodeStore.create(tmp_path, HEADER) as store:
        store.commit([varied(2).encode()])
        write_filter(store, EpisodeFilter(success_only=True))
        assert filtered_indices(store) == []
        with pytest.raises(UsageError, match=r"keep\.json selects none of its episodes: delete it"):
            training_indices(store)


DAMAGED = [{"keep_above": 7}, {"code": "print()"}, {"keep_above": True}, {"success_only": 1}]


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 9999, *map(json.dumps, DAMAGED)])
def test_a_damaged_rule_is_named(tmp_path, text):
    (tmp_path / "keep.json").write_text(text)
    with pytest.raises(GatoError, match=r"keep\.json is damaged .*delete it"):
        read_filter(tmp_path)
