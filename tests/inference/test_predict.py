"""Memory behind `predict`: kept without a state, forgotten when told, and refused to the states of others."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Space, Text, Tuple

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from tests.helpers.harsh import harsh

SMALL = dataclasses.replace(GatoConfig.nano(), context=48, layers=2)
SEEN, ACTED = Box(-1, 1, (3,)), Box(-1, 1, (2,))
STEPS = 6


def agent_for(observation: Space[Any] = SEEN, action: Space[Any] = ACTED, **kwargs: Any) -> Agent:
    task = TrainedTask("Toy-v0", observation, action)
    return Agent(Checkpoint(harsh(SMALL), {task.id: task}, name="test weights"), task, **kwargs)


def observations(num_envs: int | None = None, count: int = STEPS) -> Any:
    shape = (count, 3) if num_envs is None else (count, num_envs, 3)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("num_envs", [None, 1, 3])
def test_it_remembers_with_and_without_a_state(num_envs: int | None) -> None:
    told, silent = agent_for(), agent_for()
    state, with_state, without, fresh = None, [], [], []
    for observation in observations(num_envs):
        action, state = told.predict(observation, state)
        with_state.append(action)
        without.append(silent.predict(observation)[0])
    forgetful = agent_for()
    for observation in observations(num_envs):
        forgetful.reset(num_envs or 1)
        fresh.append(forgetful.predict(observation)[0])
    np.testing.assert_array_equal(with_state, without)
    np.testing.assert_array_equal(fresh[0], without[0])
    assert not np.array_equal(fresh, without)


@pytest.mark.parametrize("by", ["reset", "episode_start", "number"])
def test_it_forgets_when_told(by: str) -> None:
    agent = agent_for()
    first = [agent.predict(observation)[0] for observation in observations()]
    starts: list[Any] = [None] * STEPS
    if by == "reset":
        agent.reset()
    elif by == "episode_start":
        starts[0] = np.ones(1, bool)
    else:
        agent.predict(observations(2)[0])
    again = [agent.predict(each, episode_start=start)[0] for each, start in zip(observations(), starts, strict=True)]
    np.testing.assert_array_equal(first, again)


def test_one_environment_of_several_forgets() -> None:
    agent, told = agent_for(), agent_for()
    plain = np.array([agent.predict(each)[0] for each in observations(2)])
    seen = observations(2)
    seen[3:, 1] = seen[:3, 1]
    actions = np.array([
        told.predict(each, episode_start=np.array([False, t == 3]))[0] for t, each in enumerate(seen)
    ])  # fmt: skip
    np.testing.assert_array_equal(actions[:, 0], plain[:, 0])
    np.testing.assert_array_equal(actions[3:, 1], plain[:3, 1])


def test_the_first_step_begins_an_episode_whatever_it_is_told() -> None:
    first, other = agent_for(), agent_for()
    for t, each in enumerate(observations(2)):
        wanted = first.predict(each, episode_start=np.full(2, t == 0))[0]
        np.testing.assert_array_equal(other.predict(each, episode_start=np.zeros(2, bool))[0], wanted)


def test_the_states_of_others_are_refused() -> None:
    agent = agent_for()
    one, pair = observations()[0], observations(2)[0]
    _, state = agent.predict(one)
    with pytest.raises(UsageError, match=r"Toy-v0: 2 observations with the state of 1, .*: pass state=None"):
        agent.predict(pair, state)
    for other in (agent_for().predict(one)[1], np.zeros(3), ()):
        with pytest.raises(UsageError, match=r"Toy-v0: the state is of .*, and not of this agent"):
            agent.predict(one, other)
    agent.predict(one, state)  # the refusals changed nothing
    agent.predict(pair)
    with pytest.raises(UsageError, match=r"state of 1, and the memory is of 2: pass state=None"):
        agent.predict(one, state)


@pytest.mark.parametrize(
    "space",
    [
        SEEN,
        Discrete(4),
        Box(-1, 1, ()),
        Dict({"a": SEEN, "b": Discrete(3)}),
        Tuple((Discrete(2), SEEN)),
        Box(0, 255, (20, 20, 3), np.uint8),
    ],
    ids=["box", "discrete", "number", "dict", "tuple", "image"],
)
def test_act_says_that_a_batch_axis_is_missing(space: Space[Any]) -> None:
    agent = agent_for(space)
    space.seed(0)
    observation = space.sample()
    for call in (agent.act, agent.distribution, lambda seen: agent.follow(seen, np.zeros((1, 2), np.float32))):
        with pytest.raises(UsageError, match=r"^Toy-v0: one observation without a batch axis: .*`predict` takes one"):
            call(observation)
    assert ACTED.contains(agent.predict(observation)[0])


def test_other_wrong_observations_name_the_task() -> None:
    with pytest.raises(GatoError, match=r"^Toy-v0: observations: shape \(2,\)"):
        agent_for().act(np.zeros((1, 2), np.float32))
    both = agent_for(Dict({"a": SEEN, "b": Discrete(3)}))
    for call in (both.act, both.predict):
        with pytest.raises(GatoError, match=r"^Toy-v0: observations: 'a': missing from"):
            call({"b": [0]})
    with pytest.raises(GatoError, match=r"^Toy-v0: observations: 'b'"):
        agent_for(Dict({"a": SEEN, "b": Text(3)}), Discrete(2)).act({"a": np.zeros((1, 3), np.float32)})
