"""Kinds of experts are entries of one table: a new one is loaded, and named among the choices."""

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from gato_agent.envs.errors import UsageError
from gato_agent.rollouts.experts import load
from gato_agent.rollouts.experts.load import KINDS, load_expert

SPACES = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3)
MODULE = """
from gato_agent.rollouts.experts.expert import ExpertKind
from gato_agent.rollouts.experts.load import RandomExpert

class LastAction(RandomExpert):
    def act(self, observation, start):
        return 0 * super().act(observation, start) + self._space.n - 1

KIND = ExpertKind("last", "last".__eq__, lambda context: LastAction(context.spaces.action, context.seed))
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "added_expert.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import added_expert  # type: ignore[import-not-found]

    monkeypatch.setattr(load, "KINDS", {"last": added_expert.KIND, **KINDS})
    yield
    sys.modules.pop("added_expert")


@pytest.mark.usefixtures("added")
def test_an_entry_of_the_table_adds_a_kind() -> None:
    expert = load_expert("last", "CartPole-v1", *SPACES)
    expert.reset(4)
    assert expert.act(np.zeros((4, 2), np.float32), np.ones(4, np.bool_)).tolist() == [2, 2, 2, 2]
    with pytest.raises(UsageError, match=r"^no expert 'none\.zip': use one of last, catalogue, scripted, "):
        load_expert("none.zip", "CartPole-v1", *SPACES)


@pytest.mark.usefixtures("added")
def test_a_kind_without_sb3_options_refuses_them() -> None:
    with pytest.raises(UsageError, match=r"^--expert last takes no --expert-statistics"):
        load_expert("last", "CartPole-v1", *SPACES, statistics="none")


@pytest.mark.parametrize("name", ["catalogue", "scripted", "train", "random"])
def test_a_file_of_the_name_of_a_kind_does_not_hide_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("")
    assert next(kind for kind in KINDS.values() if kind.matches(name)) is KINDS[name]
