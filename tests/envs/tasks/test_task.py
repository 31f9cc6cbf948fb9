"""Tasks: the catalogue agrees with Gymnasium, and a suite is read strictly."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from benchmarks.reference_scores import write_suite
from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.views import EVERYTHING
from gato_agent.envs.tasks import task
from gato_agent.envs.tasks.packages import SUITES
from gato_agent.envs.tasks.suite_file import read_suite
from gato_agent.envs.tasks.task import Score, Task, catalogue, families, find, view_of

SCORE = """
mean = 1.0
std = 0.0
episodes = 2
seeds = [5, 6]
how = "by hand"
versions = { gymnasium = "1.4.0" }
"""
SUITE = f"""
extra = "box2d"
[tasks."A-v0"]
horizon = 9
[tasks."A-v0".expert]{SCORE}
[tasks."B-v1"]
"""
SHARED = 'success = "success"\nexpert_kind = "scripted"\nview = [{ drop = "map" }]\n'


def written(folder: Path, text: str) -> Path:
    file = folder / "toys.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("known", catalogue().values(), ids=lambda known: known.id)
def test_a_tasks_scores_were_measured_alike(known: Task) -> None:
    assert find(known.id) is known
    for score in filter(None, (known.random, known.expert)):
        assert (score.episodes, score.seeds) == (100, (1_000_000, 1_000_099))
        assert "gymnasium" in score.versions
        assert (score.success is None) == (known.success is None)
        assert score.horizon_mean is None or known.suite == "metaworld"
    assert known.random is not None and known.expert is not None
    assert known.by_success == (
        known.suite == "metaworld"
    )  # where success ends an episode, returns say how long it took
    random, expert = known.reference(known.random), known.reference(known.expert)
    assert random is not None and expert is not None and expert > random


def test_what_stands_at_the_top_is_said_of_every_task_that_does_not_say_otherwise(tmp_path: Path) -> None:
    tasks = read_suite(written(tmp_path, SHARED + SUITE.replace("horizon = 9", 'horizon = 9\nsuccess = "won"')))
    assert [task.success for task in tasks.values()] == ["won", "success"]
    assert [task.view.to_json() for task in tasks.values()] == [[{"drop": "map"}]] * 2
    assert {task.expert_kind for task in tasks.values()} == {"scripted"}


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    for family in families():
        known = read_suite(SUITES / f"{family}.toml")
        write_suite(file := tmp_path / f"{family}.toml", known.values())
        assert read_suite(file) == known


def test_an_unknown_id_is_no_task() -> None:
    assert find("Taxi-v3") is None


def test_a_suite_becomes_tasks(tmp_path: Path) -> None:
    score = Score(mean=1.0, std=0.0, episodes=2, seeds=(5, 6), how="by hand", versions={"gymnasium": "1.4.0"})
    assert read_suite(written(tmp_path, SUITE)) == {
        "A-v0": Task("A-v0", "toys", horizon=9, expert=score, extra="box2d"),
        "B-v1": Task("B-v1", "toys", extra="box2d"),
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('extra = "box2d"', "extra = 1", r"^toys\.toml: extra is 1, not of type str$"),
        ('extra = "box2d"', 'extras = "box2d"', r"^toys\.toml: extras is unknown; known keys: tasks, extra, "),
        ("horizon", "horizn", r"^toys\.toml: tasks\.A-v0\.horizn is unknown; known keys: horizon, "),
        ("horizon = 9", "horizon = true", r"tasks\.A-v0\.horizon is True, not of type int"),
        ("horizon = 9", "random = 9", r"tasks\.A-v0\.random is 9, not of type dict"),
        ("horizon = 9", "text_pieces = 9.0", r"tasks\.A-v0\.text_pieces is 9.0, not of type int"),
        ("horizon = 9", "view = [{ drap = 1 }]", r"tasks\.A-v0\.view: step 0 of the view is \{'drap': 1\}, not one of"),
        ("std = 0.0", "std = 0.0\nsuccess = 2.0", r"tasks\.A-v0\.expert\.success is 2.0, not a share from 0 to 1"),
        ("mean = 1.0", "mean = 1", r"tasks\.A-v0\.expert\.mean is 1, not of type float"),
        ("mean = 1.0", "mean = nan", r"tasks\.A-v0\.expert\.mean is nan, which is not finite"),
        ("std = 0.0", "", r"tasks\.A-v0\.expert\.std is missing"),
        ("[5, 6]", "[5, 7]", r"tasks\.A-v0\.expert\.seeds is \[5, 7\], not the first and last of 2 seeds"),
        ("[5, 6]", "[5]", r"seeds is \[5\], not the first"),
        ('"1.4.0"', "1.4", r"tasks\.A-v0\.expert\.versions\.gymnasium is 1\.4, not of type str"),
        ('[tasks."B-v1"]', "[tasks]\nB = 1", r"toys\.toml: tasks\.B is not a table"),
        ('[tasks."B-v1"]', "= 3", r"toys\.toml: not valid TOML"),
        (SUITE, "", r"^toys\.toml: tasks is missing$"),
        (SUITE, "tasks.X = 1", r"^toys\.toml: tasks\.X is not a table$"),
    ],
)
def test_a_mistake_in_a_suite_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SUITE
    with pytest.raises(GatoError, match=message):
        read_suite(written(tmp_path, SUITE.replace(old, new, 1)))


def test_a_task_in_two_suites_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more.toml").write_text(SUITE)
    written(tmp_path, SUITE)
    monkeypatch.setattr(task, "SUITES", tmp_path)
    with pytest.raises(GatoError, match=r"toys\.toml: A-v0 is also in more\.toml"):
        catalogue.__wrapped__()  # not the one that is kept


def test_a_view_is_used_only_where_it_suits_the_space():
    task = catalogue()["ALE/Breakout-v5"]
    assert task.view != EVERYTHING
    assert view_of(task.id, Box(0, 255, (210, 160, 3), np.uint8)) == task.view
    assert view_of(task.id, Box(0, 255, (128,), np.uint8)) == EVERYTHING  # obs_type="ram"
    babyai = find("BabyAI-GoToLocal-v0")
    assert babyai is not None and babyai.grouped_view not in (None, babyai.view)
    space = Dict({"image": Box(0, 255, (7, 7, 3), np.uint8), "direction": Discrete(4)})
    assert view_of(babyai.id, space, grouped=True) == babyai.grouped_view
    assert view_of(task.id, Box(0, 255, (210, 160, 3), np.uint8), grouped=True) == task.view  # it has no other
    assert view_of("Mine-v0", Box(0, 255, (210, 160, 3), np.uint8)) == EVERYTHING
