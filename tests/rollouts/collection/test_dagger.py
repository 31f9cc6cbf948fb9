"""Agent and expert alternate by the episode's seed alone; every step is labelled, or the episode ends."""

import numpy as np
import pytest

from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.collection.dagger import MEAN_STRETCH, Guided
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from tests.helpers.constant_expert import NEXT, START, ConstantExpert

EXPERT, STUDENT = np.array([1]), np.array([0])
ABOUT = {"kind": "dagger", "sha256": "", "beta": 0.3}


class Student:
    """Student with a constant action that records its calls."""

    def __init__(self):
        self.diary = []

    def reset(self, num_envs):
        assert num_envs == 1
        self.diary.append("reset")

    def act(self, observation, start):
        self.diary.append("act")
        return STUDENT

    def follow(self, observation, action, start):
        assert action == EXPERT
        self.diary.append("follow")


class Named:
    """Learner with an injected student."""

    sha256 = "ab" * 32

    def knows(self, env_id):
        return True

    def check(self, envs):
        pass

    def make(self, envs):
        return Student()


class Lost:
    """Expert that is `lost` from step `at` on."""

    at = 2

    def __init__(self):
        self.t = 0

    def act(self, observation, start):
        self.t = 0 if start.all() else self.t + 1
        return EXPERT

    @property
    def lost(self):
        return self.t >= self.at


def lost_from_the_third(observation_space, action_space):
    return Lost()


def episode(guided: Guided, seed: int, steps: int = 200) -> np.ndarray:
    guided.seed(seed)
    guided.reset(1)
    executed = []
    for t in range(steps):
        executed.append(guided.act(None, NEXT if t else START)[0])
        assert guided.label == EXPERT
    return np.array(executed)


def test_turns_are_a_function_of_the_seed_whatever_came_before():
    guided = Guided(Student(), ConstantExpert(EXPERT), ABOUT)
    first = [episode(guided, seed) for seed in range(6)]
    again = [episode(Guided(Student(), ConstantExpert(EXPERT), ABOUT), seed) for seed in reversed(range(6))][::-1]
    np.testing.assert_array_equal(first, again)
    assert len({actions.tobytes() for actions in first}) == 6


def test_the_student_hears_of_every_step_and_begins_every_episode_afresh():
    student = Student()
    guided = Guided(student, ConstantExpert(EXPERT), ABOUT)
    executed = [episode(guided, seed, 50) for seed in range(2)]
    told = [["act", "follow"][int(action)] for action in np.concatenate(executed)]
    assert student.diary == ["reset", *told[:50], "reset", *told[50:]]
    assert {"act", "follow"} == set(told)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_expert_acts_in_a_share_of_the_steps(beta):
    guided = Guided(Student(), ConstantExpert(EXPERT), ABOUT | {"beta": beta})
    executed = np.concatenate([episode(guided, seed) for seed in range(60)])
    assert executed.mean() == pytest.approx(beta, abs=0.04)
    if 0 < beta < 1:
        runs = np.diff(np.flatnonzero(np.diff(executed)))
        assert runs.mean() > MEAN_STRETCH  # turns of the same may follow on each other


def test_one_environment_only():
    with pytest.raises(ValueError, match="1 environment is needed, not 2"):
        Guided(Student(), ConstantExpert(EXPERT), ABOUT).reset(2)


@pytest.mark.parametrize(("at", "steps"), [(2, 2), (0, 1), (9, 3)])
@pytest.mark.parametrize("noise", [True, False])
def test_an_episode_of_the_expert_ends_where_it_is_lost_too(tmp_path, monkeypatch, capsys, noise, at, steps):
    """Waiting is no demonstration, with noise or without."""
    monkeypatch.setattr(Lost, "at", at)
    collect(
        CollectConfig(("tests.helpers.testing_env:Testing-v0",), expert=f"{__name__}:lost_from_the_third", episodes=3,
                      noise=noise, workers=0, out=tmp_path),
    )  # fmt: skip
    store = EpisodeStore(tmp_path / "Testing-v0")
    for seed in range(3):
        read = store.read(seed)
        assert (len(read), read.terminated, read.truncated) == (steps, steps == 3, steps < 3)
        assert store.stats(seed).lost is read.stats.lost is (steps < 3)
        np.testing.assert_array_equal(read.targets[""], np.ones(steps))
    said = "".join(capsys.readouterr())
    assert ("Testing-v0: 3 of 3 episodes end where the expert was lost" in said) == (steps < 3)


@pytest.mark.parametrize(("at", "steps"), [(2, 2), (1, 1), (0, 1), (9, 3)])
def test_an_episode_ends_where_the_expert_is_lost(tmp_path, monkeypatch, at, steps):
    """At least one step is stored, since an episode must not be empty."""
    monkeypatch.setattr(Lost, "at", at)
    collect(
        CollectConfig(("tests.helpers.testing_env:Testing-v0",), expert=f"{__name__}:lost_from_the_third", episodes=2,
                      dagger="given below", dagger_beta=0.5, workers=0, out=tmp_path), Named(),
    )  # fmt: skip
    store = EpisodeStore(tmp_path / "Testing-v0")
    assert store.kind == "dagger-callable"
    for seed in (0, 1):
        read = store.read(seed)
        assert len(read) == steps
        assert (read.terminated, read.truncated) == ((True, False) if steps == 3 else (False, True))
        np.testing.assert_array_equal(read.observations[""][:, 1], np.arange(steps + 1))
        np.testing.assert_array_equal(read.targets[""], np.ones(steps))
        assert read.provenance["learner"] == {"kind": "dagger", "sha256": Named.sha256, "beta": 0.5}
        assert read.stats.noise is None
