"""Probabilities of the next action: those that it is drawn from, without a step being taken."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato

OBSERVATION = Box(-1, 1, (2,), np.float32)
ACTION = Dict({"a": Discrete(3, start=1), "b": Box(0, 4, (2,), np.float32), "c": Discrete(2)})
SHAPES: list[dict[str, Any]] = [{"action_decoder": True}, {}, {"past_actions": True}]


def agent_of(shape: dict[str, Any], temperature: float = 1.0, **options: Any) -> Agent:
    torch.manual_seed(0)
    model = Gato(GatoConfig(1, 2, 64, 128, 40, 64, (32, 64), 32, **shape)).eval()
    if model.action_decoder is not None:
        for layer in model.action_decoder.correction.out.parameters():
            torch.nn.init.normal_(layer, std=0.5)
        model.action_decoder.table.weight.data.mul_(20)
    task = TrainedTask("Toy-v0", OBSERVATION, ACTION)
    return Agent(Checkpoint(model, {task.id: task}), task, temperature=temperature, **options)


def observations(steps: int) -> Any:
    return np.random.default_rng(0).uniform(-1, 1, (steps, 2, 2)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_asking_leaves_no_trace(shape: dict[str, Any]) -> None:
    """Actions, logits and random numbers are those of an agent that was not asked; also across restarts."""
    inspected, silent = agent_of(shape), agent_of(shape)
    for agent in (inspected, silent):
        agent.reset(2)
    for t, seen in enumerate(observations(60)):
        start = np.array([t == 0, t in (0, 30)])
        inspected.distribution(seen, start)
        inspected.distribution(seen, start, given=inspected.task.action_space and {
            "a": np.array([1, 3]), "b": np.ones((2, 2), np.float32), "c": np.array([0, 1])
        })  # fmt: skip
        first, second = (agent.act(seen, start, return_log_prob=True) for agent in (inspected, silent))
        assert all(np.array_equal(first[0][key], second[0][key]) for key in first[0])
        assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_actions_are_drawn_from_it(shape: dict[str, Any]) -> None:
    """The log-probability of an action is the sum of those of its elements, each given those before."""
    agent = agent_of(shape, 0.7)
    agent.reset(2)
    for seen in observations(5):
        before, layout = agent._stepper.decoder, agent.tokenizer.layout
        action, log_prob = agent.act(seen, return_log_prob=True)
        before.rewind(layout.written - layout.rewound)  # as if it had not acted
        if layout.carried:
            agent.reset(2)  # the last action would be read again
            return
        actual, total = agent.distribution(seen, np.zeros(2, bool), given=action), np.zeros(2)
        for path, leaf in actual.items():
            values = action[path].reshape(2, -1)
            for at, (shares, table) in enumerate(zip(leaf.probabilities, leaf.values, strict=True)):
                assert np.allclose(shares.sum(1), 1)
                total += np.log(shares[np.arange(2), np.abs(table - values[:, at, None]).argmin(1)])
        assert np.allclose(total, log_prob)
        agent.act(seen, np.zeros(2, bool))
        assert agent._stepper.decoder is before


@pytest.mark.parametrize("shape", SHAPES)
def test_later_elements_depend_on_earlier_ones(shape: dict[str, Any]) -> None:
    agent = agent_of(shape)
    agent.reset(2)
    seen = observations(1)[0]
    one, other = ({"a": np.array([k, k]), "b": np.ones((2, 2), np.float32), "c": np.array([0, 0])} for k in (1, 3))
    first, second = (agent.distribution(seen, given=given) for given in (one, other))
    assert np.array_equal(first["a"].probabilities, second["a"].probabilities)
    assert not np.allclose(first["b"].probabilities[0], second["b"].probabilities[0])
    assert not np.allclose(first["c"].probabilities, second["c"].probabilities)


def test_marginals_regard_no_other_element_and_are_an_option_of_play() -> None:
    agent = agent_of(SHAPES[0], 0.0, marginal=True)
    agent.reset(2)
    seen = observations(1)[0]
    actual = agent.distribution(seen)
    action = agent.act(seen)
    assert np.array_equal(actual["b"].median, action["b"].astype(np.float64))
    for path in ("a", "c"):
        (shares,), (values,) = actual[path].probabilities, actual[path].values
        assert np.array_equal(values[shares.argmax(1)], action[path])


def test_figures_of_a_box_are_in_its_units() -> None:
    agent = agent_of(SHAPES[0])
    agent.reset(2)
    box = agent.distribution(observations(1)[0])["b"]
    assert box.mean.shape == box.median.shape == (2, 2)
    low, high = box.interval(0.5)
    assert ((low <= box.median) & (box.median <= high)).all() and (low >= 0).all() and (high <= 4).all()
    assert (box.interval(0.9)[0] <= low).all()
    assert len(box.values[0]) == 1024 and (np.diff(box.values[0]) > 0).all()
    assert box.mean[1, 0] == pytest.approx(float(box.probabilities[0][1] @ box.values[0]))
