"""Scripted experts solve their tasks, deterministically, and from any state."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.rollouts.collection.noise import Noisy
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.scripted import PlannedExpert, find_scripted
from tests.helpers.testing_env import TestingEnv

START = np.ones(1, np.bool_)
SPACES = Box(-np.inf, np.inf, (39,), np.float64), Box(-1, 1, (4,))


def mean_return(env_id: str, episodes: int, spec: str = "scripted", **env_kwargs) -> float:
    envs = make_vector(env_id, 2, env_kwargs=env_kwargs)
    expert = load_expert(spec, env_id, envs.single_observation_space, envs.single_action_space, envs=envs)
    return sum(step.reward for step in steps(expert, envs, range(episodes))) / episodes


# Plans for tables


@pytest.mark.parametrize("spec", ["scripted", "catalogue"])
def test_the_cliff_is_walked_in_the_fewest_steps(spec):
    assert mean_return("CliffWalking-v1", 3, spec) == -13


def test_taxis_and_lakes_score_what_a_plan_can():
    assert mean_return("Taxi-v4", 200) == pytest.approx(7.9, abs=0.8)
    assert mean_return("FrozenLake-v1", 200) == pytest.approx(0.74, abs=0.15)
    assert mean_return("FrozenLake-v1", 3, is_slippery=False) == 1


class Table:
    """Environment with two ways from state 0: a small reward at once, or a greater one after state 1."""

    def __init__(self, later: float) -> None:
        self.P = {
            0: {0: [(1.0, 0, 1.0, True)], 1: [(1.0, 1, 0.0, False)]},
            1: {0: [(1.0, 0, later, True)], 1: [(1.0, 1, 0.0, True)]},
        }


def test_a_plan_looks_ahead_and_each_environment_has_its_own():
    expert = PlannedExpert("x", [Table(5.0), Table(0.5)])
    assert expert.act(np.array([0, 0]), START).tolist() == [1, 0]
    assert expert.act(np.array([1, 1]), START).tolist() == [0, 0]
    assert expert.provenance["kind"] == "planned"
    with pytest.raises(GatoError, match=r"x: its table of transitions cannot be read"):
        PlannedExpert("x", [type("Odd", (), {"P": {1: {}}})()])


# Meta-World


@pytest.mark.parametrize("task", ["reach-v3", "peg-insert-side-v3", "basketball-v3"])
def test_meta_worlds_policies_depend_on_the_observation_alone(task):
    pytest.importorskip("metaworld")
    expert = load_expert("scripted", f"Meta-World/{task}", *SPACES)
    observations = np.random.default_rng(0).normal(size=(50, 39)) / 3
    first = [expert.act(obs[None], START) for obs in observations]
    again = expert.act(observations[::-1], np.ones(50, np.bool_))[::-1]
    np.testing.assert_array_equal(np.concatenate(first), again)
    assert all(action[0] in SPACES[1] for action in first)
    assert expert.provenance["source"].startswith("metaworld Sawyer")


@pytest.mark.parametrize("task", ["button-press-v3", "door-close-v3"])
def test_what_a_policy_was_given_stays_as_it_was(task):
    pytest.importorskip("metaworld")
    observation = np.random.default_rng(0).normal(size=(3, 39))
    before = observation.copy()
    load_expert("scripted", f"Meta-World/{task}", *SPACES).act(observation, np.ones(3, np.bool_))
    np.testing.assert_array_equal(observation, before)


def test_every_task_of_meta_world_has_a_policy():
    metaworld = pytest.importorskip("metaworld")
    hashes = {
        load_expert("catalogue", f"Meta-World/{task}", *SPACES).provenance["sha256"]
        for task in metaworld.ALL_V3_ENVIRONMENTS
    }
    assert len(hashes) == 50
    with pytest.raises(UsageError, match=r"no policy for fly-v3; it has: assembly-v3, "):
        load_expert("scripted", "Meta-World/fly-v3", *SPACES)


# Others


def test_where_there_is_no_program_the_way_out_is_named():
    with pytest.raises(UsageError, match=r"no scripted expert for CartPole-v1.*--expert train"):
        mean_return("CartPole-v1", 1)
    with pytest.raises(UsageError, match="no scripted expert for Taxi-v4"):
        load_expert("scripted", "Taxi-v4", Discrete(500), Discrete(6))  # no environment to look into
    with pytest.raises(UsageError, match="no scripted expert for Testing-v0"):
        find_scripted("Testing-v0", [TestingEnv()])


def test_noise_leaves_the_plans_action_as_the_label():
    envs = make_vector("Taxi-v4", 1)
    expert = find_scripted("Taxi-v4", envs.envs)
    noisy = Noisy(expert, envs.single_action_space)
    differing = 0
    for seed in range(6):
        noisy.seed(seed)
        for step in steps(noisy, envs, [seed]):
            assert noisy.label[0] == expert.act(np.array([step.obs]), START)[0]
            differing += noisy.label[0] != step.action
    assert differing > 0
