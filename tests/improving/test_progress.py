"""Rounds end when they no longer help, and the record of them survives."""

import json

import numpy as np
import pytest

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.improving.config import ImproveConfig
from gato_agent.improving.progress import FILE, Progress, Round, ending, gain


def after(*means: float, noise: float = 10.0) -> Progress:
    """Progress whose rounds have these mean scores, each with noise of its own."""
    progress = Progress({"episodes": 3})
    for number, mean in enumerate(means):
        own = np.random.default_rng(number).normal(scale=noise, size=40)
        scores = tuple((mean + own - own.mean()).tolist())
        progress = progress.with_round(Round(number, scores, mean, best=False))
    return progress


def test_a_gain_is_paired_by_seed():
    mean, low, high = gain([101.0, 3.0, 51.0], [100.0, 2.0, 50.0])
    assert (mean, low, high) == (1.0, 1.0, 1.0)


def test_the_best_round_is_the_latest_that_beat_the_best_before_it():
    assert [each.best for each in after(0, 5, 4, 6, 5).rounds] == [True, True, False, True, False]
    assert after(0, 5, 4, 6, 5).best.number == 3


@pytest.mark.parametrize(
    ("means", "number"), [((0,), 0), ((0, 5), 1), ((0, 5, 4), 2), ((0, 5, -20), 1), ((0, 5, -20, 4), 3)]
)
def test_the_next_round_begins_with_the_latest_agent_unless_it_is_surely_worse(means, number):
    assert after(*means).start.number == number


def test_equal_rounds_do_not_replace_the_best():
    assert after(1, 1, noise=0.0).best.number == 0


@pytest.mark.parametrize(
    ("means", "patience", "ends"),
    [
        ((0,), 2, False),
        ((0, -50), 2, False),
        ((0, -50, -50), 2, True),
        ((0, 50, 100), 2, False),
        ((0, 50, 40), 2, False),  # two rounds together have helped
        ((0, 50, 40, 45), 2, True),
        ((0, 50, 40, 100), 2, False),
        ((0, 50, 50.5, 51), 2, True),  # not told from zero
        ((0, 50, 40), 1, True),
        ((0, 50, 40, 45), 3, False),
    ],
)
def test_the_end_comes_when_the_last_rounds_together_brought_no_gain_above_its_noise(means, patience, ends):
    end = ending(after(*means), patience)
    assert (end is not None) == ends
    if end:
        assert "no longer helped" in end and "95% interval" in end


def test_the_record_is_read_as_it_was_written(tmp_path):
    progress = after(0, 5)
    progress.save(tmp_path)
    assert Progress.load(tmp_path, {"episodes": 3}) == progress
    assert Progress.load(tmp_path / "empty", {"episodes": 3}) == Progress({"episodes": 3})


def test_other_options_are_refused_with_a_way_out(tmp_path):
    after(0).save(tmp_path)
    with pytest.raises(UsageError, match=r"another --episodes \(3, now 4\): repeat that, or choose another --out"):
        Progress.load(tmp_path, {"episodes": 4})


@pytest.mark.parametrize("change", [{"rounds": 3}, {"format": 9}, {"rounds": [{"number": 0}]}, {"more": 1}])
def test_a_damaged_record_is_refused_with_a_way_out(tmp_path, change):
    after(0).save(tmp_path)
    data = json.loads((tmp_path / FILE).read_text()) | change
    (tmp_path / FILE).write_text(json.dumps(data))
    with pytest.raises(GatoError, match=r"improve.json is damaged .*: restore it, or choose another --out"):
        Progress.load(tmp_path, {"episodes": 3})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "--rounds 0"),
        ({"tries": 1}, "--tries 1: at least 2"),
        ({"bar": 1.0}, "--bar 1.0"),
        ({"temperature": 0.0}, "--temperature 0.0: it must be above 0"),
        ({"eval_episodes": 1}, "--eval-episodes 1"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"init": None}, "give --data FOLDER, --init RUN, or both"),
    ],
)
def test_options_out_of_range_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        ImproveConfig(**{"env": "CartPole-v1", "init": "run", **wrong}).check()


def test_options_that_change_no_agent_may_change():
    config = ImproveConfig("CartPole-v1", init="a")
    assert config.settings() == ImproveConfig("CartPole-v1", init="b", rounds=9, patience=3, workers=0).settings()
    assert config.settings() != ImproveConfig("CartPole-v1", init="a", tries=9).settings()
