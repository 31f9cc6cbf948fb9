"""Every task of the catalogue is reproducible in any process and order, and has the declared tokens."""

import json
import subprocess
import sys
from contextlib import closing
from ctypes.util import find_library
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete, Space, Text

from gato_agent.envs.make import find_spec, make
from gato_agent.envs.spaces.flatten import Columns, leaves, row
from gato_agent.envs.spaces.view_transforms import Select
from gato_agent.envs.tasks.task import Task, catalogue, families, is_installed
from gato_agent.tokens.space_tokenizer import PAD, PATCH, SpaceTokenizer, Vocabulary
from gato_agent.tokens.text_tokenizer import TextTokenizer
from tests.helpers.paths import ROOT
from tests.helpers.testing_tasks import SEEDS, STEPS, digests, played

VOCABULARY = Vocabulary(512)


SLOW = "metaworld"  # 50 tasks, by one adapter
FAMILIES = [pytest.param(each, marks=[pytest.mark.slow] * (each == SLOW)) for each in families()]


@pytest.fixture(scope="module", params=FAMILIES)  # so that the tests of one family follow each other
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tasks_of(family: str) -> list[Task]:
    """Installed tasks of a suite; skips the test if there are none."""
    tasks = [task for task in catalogue().values() if task.suite == family]
    if not all(map(is_installed, tasks)):
        pytest.skip(f"needs pip install 'gato-agent[{tasks[0].extra}]'")
    return tasks


def elsewhere(ids: list[str], seeds: tuple[int, ...], length: int) -> dict[str, list[str]]:
    """Digests from another process, with another hash seed."""
    code = (
        "import json, sys; from tests.helpers.testing_tasks import digests\n"
        "seeds, length, ids = json.loads(sys.argv[1])\n"
        "found = {i: digests(i, tuple(seeds), length) for i in ids}\n"
        "print(chr(10) + json.dumps(found))"
    )
    command = [sys.executable, "-c", code, json.dumps([seeds, length, ids])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_there_are_as_many_as_promised() -> None:
    counts = {family: len([t for t in catalogue().values() if t.suite == family]) for family in families()}
    assert counts == {
        "atari": 3, "babyai": 89, "babyai_rgb": 5, "box2d": 4, "bullet": 5, "classic": 5, "metaworld": 50,
        "minatar": 3, "mujoco": 11, "panda": 1, "robotics": 1, "toytext": 3,
    }  # fmt: skip


def test_a_task_repeats_for_a_seed_in_another_process_that_plays_in_another_order(family: str) -> None:
    ids = [task.id for task in tasks_of(family)]
    assert elsewhere(ids, SEEDS[::-1], STEPS) == {env_id: digests(env_id) for env_id in ids}


@pytest.mark.slow
def test_whole_episodes_repeat_in_another_process_that_plays_in_another_order(family: str) -> None:
    ids = [task.id for task in tasks_of(family)]
    assert elsewhere(ids, (2, 1, 0), 1000) == {env_id: digests(env_id, (0, 1, 2), 1000) for env_id in ids}


def test_a_task_observes_what_its_space_declares(family: str) -> None:
    for task in tasks_of(family):
        met = played(task.id)
        # Box2D's speeds go beyond their bounds after a hard landing.
        for columns in [] if family == "box2d" else met.observations.values():
            for step in range(len(next(iter(columns.values())))):
                assert met.observation_space.contains(row(met.observation_space, columns, step)), (task.id, step)


def brief(space: Space[Any]) -> str:
    """Short description of a space, such as `image Box 7x7x3, mission Text`."""
    words = []
    for path, leaf in leaves(space):
        size = [leaf.n] if isinstance(leaf, Discrete) else [] if isinstance(leaf, Text) else leaf.shape or ()
        words.append(" ".join(filter(None, [path, type(leaf).__name__, "x".join(map(str, size))])))
    return ", ".join(words)


def test_a_task_goes_through_tokens_and_its_actions_come_back(family: str) -> None:
    tasks = tasks_of(family)
    texts = [text for task in tasks for text in joined(played(task.id).observations).get("mission", [])]
    pieces = TextTokenizer.train(texts, VOCABULARY.text).encode if texts else None
    for task in tasks:
        met = played(task.id)
        spaces = met.observation_space, met.action_space
        tokenizer = SpaceTokenizer(*spaces, VOCABULARY, pieces, task.text_pieces or 32, task.view)
        assert tokenizer.layout.length == task.tokens_per_timestep, task.id
        assert (brief(spaces[0]), brief(spaces[1])) == (task.observes, task.acts)
        observations, actions = joined(met.observations), joined(met.actions)
        tokens, patches, _ = tokenizer.encode_observations(observations)
        assert tokens.shape[1] == tokenizer.n_obs
        assert patches.shape[:2] == (len(tokens), (tokens[0] == PATCH).sum())
        assert ((tokens == PAD) | (tokens == PATCH) | ((tokens >= 0) & (tokens < VOCABULARY.separator))).all()
        encoded = tokenizer.encode_actions(actions)
        decoded = tokenizer.decode_actions(encoded)
        np.testing.assert_array_equal(tokenizer.encode_actions(decoded), encoded)
        for path, column in decoded.items():
            if column.dtype.kind in "iu":
                np.testing.assert_array_equal(column, actions[path])
        for index in range(len(encoded)):
            assert met.action_space.contains(row(met.action_space, decoded, index)), task.id


def joined(met: dict[int, Columns]) -> Columns:
    return {path: np.concatenate([met[seed][path] for seed in SEEDS]) for path in met[SEEDS[0]]}


def test_the_table_agrees_with_gymnasium(family: str) -> None:
    for task in tasks_of(family):
        spec = find_spec(task.id)
        assert spec.id == task.id
        assert task.horizon is not None
        assert spec.max_episode_steps in (None, task.horizon)


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "LunarLander-v3", "Taxi-v4", "HalfCheetah-v5", "FetchReach-v4", "ALE/Breakout-v5"]
)
def test_it_is_what_gymnasium_makes(env_id: str) -> None:
    tasks_of(catalogue()[env_id].suite)
    with closing(make(env_id)) as ours, closing(gym.make(env_id)) as theirs:
        ours.action_space.seed(0)
        same(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
        for _ in range(20):
            action = ours.action_space.sample()
            mine, other = ours.step(action), theirs.step(action)
            same(mine[0], other[0])
            assert mine[1:4] == other[1:4]


def same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_meta_worlds_views_leave_out_nothing_that_its_policies_use() -> None:
    policies = pytest.importorskip("metaworld.policies").ENV_POLICY_MAP
    for task in tasks_of("metaworld"):
        policy = policies[task.id.removeprefix("Meta-World/")]()
        (kept,) = [list(step.index) for step in task.view.steps if isinstance(step, Select)]
        with closing(make(task.id)) as env:
            other = env.reset(seed=99)[0]
            for seed in range(3):
                obs, done = env.reset(seed=seed)[0], False
                while not done:
                    action = np.clip(policy.get_action(obs.copy()), -1, 1)  # some change what they are given
                    blind = other.copy()
                    blind[kept] = obs[kept]
                    np.testing.assert_array_equal(np.clip(policy.get_action(blind), -1, 1), action, task.id)
                    obs, _, terminated, truncated, _ = env.step(action.astype(np.float32))
                    done = terminated or truncated


@pytest.mark.parametrize(
    "env_id",
    ["Taxi-v4", "BipedalWalker-v3", "MinAtar/Breakout-v1", "BabyAI-RGB/GoToLocal-v0", "HopperBulletEnv-v0",
     "PandaReach-v3", "ALE/Pong-v5", "Hopper-v5", "Meta-World/reach-v3", "FetchReach-v4"],
)  # fmt: skip
def test_it_can_be_drawn_without_a_screen(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = [task for task in tasks_of(catalogue()[env_id].suite) if task.id == env_id]
    if task.suite in ("mujoco", "metaworld", "robotics") and not (find_library("EGL") or find_library("OSMesa")):
        pytest.skip("MuJoCo needs libegl1 or libosmesa6 to draw without a screen")
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("MUJOCO_GL")  # and what is set meanwhile is forgotten
    with closing(make(env_id, render_mode="rgb_array")) as env:
        for seed in range(2):
            env.reset(seed=seed)
            frame: Any = env.render()
            assert (frame.dtype, frame.shape[2], frame.ndim) == (np.uint8, 3, 3)
            assert min(frame.shape[:2]) >= 64
            assert np.ptp(frame) > 50


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for env_id in ("PandaReach-v3", "HopperBulletEnv-v0", "BabyAI-PutNextLocal-v0", "ALE/Pong-v5", "FetchReach-v4"):
        tasks_of(catalogue()[env_id].suite)
        with closing(make(env_id)) as env:
            for seed in range(5):
                env.reset(seed=seed)
    assert capfd.readouterr() == ("", "")
