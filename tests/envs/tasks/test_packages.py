"""Suites are found by their folder: a module and a table add one, and no other file is edited."""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from gato_agent.envs import adapters
from gato_agent.envs.errors import UsageError
from gato_agent.envs.make import make
from gato_agent.envs.tasks import packages, task
from gato_agent.envs.tasks.packages import packages_of, suite_install_hint, suite_of, suites
from gato_agent.envs.tasks.task import catalogue, families, install_hint, is_installed

ADAPTER = """
import gymnasium as gym
from gato_agent.envs.tasks.packages import Suite

def register():
    gym.register("Added/Cart-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=7)

def wrap(env):
    return gym.wrappers.TransformReward(env, lambda reward: 2 * reward)

SUITE = Suite(
    ids=r"Added/", extra="added", packages=(PACKAGES), distributions=("gymnasium",), module="gymnasium",
    register=register, wrap=wrap, stateful_reset=r"Added/",
)
"""
TABLE = 'extra = "added"\n[tasks."Added/Cart-v0"]\nhorizon = 7\n'


def add(folder: Path, monkeypatch: pytest.MonkeyPatch, needed: str) -> None:
    (folder / "added_suite.py").write_text(ADAPTER.replace("PACKAGES", f"{needed!r},"))
    (folder / "added_suite.toml").write_text(TABLE)
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(folder)])
    monkeypatch.setattr(task, "SUITES", folder)
    monkeypatch.setattr(packages, "suites", cache(suites.__wrapped__))  # the other tests' stay in their caches
    monkeypatch.setattr(task, "catalogue", cache(catalogue.__wrapped__))


@pytest.fixture(autouse=True)
def unregister() -> Iterator[None]:
    yield
    gym.registry.pop("Added/Cart-v0", None)
    sys.modules.pop(f"{adapters.__name__}.added_suite", None)


def test_a_module_and_a_table_add_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, monkeypatch, "gymnasium")
    assert families() == ["added_suite"]
    assert is_installed(task.catalogue()["Added/Cart-v0"])
    assert packages_of("added") == ["gymnasium"]
    env = make("Added/Cart-v0")
    first, _ = env.reset(seed=3)
    assert [env.step(0)[1] for _ in range(3)] == [2.0, 2.0, 2.0]
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)


def test_a_suite_needs_no_module_beside_its_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ADAPTER", ADAPTER.replace(' module="gymnasium",', ""))
    add(tmp_path, monkeypatch, "gymnasium")
    assert make("Added/Cart-v0").reset(seed=3)[0].shape == (4,)
    monkeypatch.setattr(packages, "installed", lambda package: False)
    assert suite_install_hint("Added/Cart-v0") is not None


def test_a_suite_that_is_not_installed_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, monkeypatch, "no_such_package")
    hint = "pip install 'gato-agent[added]'"
    assert (suite_install_hint("Added/Cart-v0"), install_hint("Added/Cart-v0")) == (hint, hint)
    with pytest.raises(UsageError, match=f"^Added/Cart-v0 is not installed: {re.escape(hint)}$"):
        make("Added/Cart-v0")


def test_each_task_is_of_one_suite_at_most() -> None:
    for env_id, known in catalogue().items():
        matching = [suite for suite in suites() if re.match(suite.ids, env_id)]
        assert len(matching) <= 1, env_id
        if matching:
            assert matching[0].extra == known.extra, env_id
    assert suite_of("CartPole-v1") is None
    assert packages_of(None) == []


def test_suites_are_declared_without_their_packages() -> None:
    """Discovery imports every adapter, also where no suite is installed."""
    for suite in suites():
        assert isinstance(suite, packages.Suite)
        assert suite.packages and suite.distributions
