"""One step for several clients: what each gets alone, and no error of one reaches another."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Space, Text

from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.flatten import Columns
from gato_agent.inference.agent import Agent
from gato_agent.serving.slot_agent import SlotAgent, StepRequest
from gato_agent.tokens.prompt import Prompt
from tests.helpers.serving import HANDS, RICH, checkpoint_of, sampled

TOLD = Dict({"mission": Text(50), "x": Box(-1, 1, (2,))})
INSTRUCTION = Prompt("text", 8, instruction="mission")


def slots(task: TrainedTask, count: int, **options: Any) -> SlotAgent:
    agent = SlotAgent(checkpoint_of(task), task, **options)
    agent.reset(count)
    return agent


def test_clients_get_what_each_alone_would_get() -> None:
    """Of several environments each, interleaved slots, at a temperature, with some absent in each step."""
    task = TrainedTask("Toy-v0", RICH, HANDS)
    agent = slots(task, 6, temperature=0.9, seed=4)
    owned = [np.array([0, 3]), np.array([1]), np.array([2, 4, 5])]
    alone = [Agent(checkpoint_of(task), task, temperature=0.9, seed=4) for _ in owned]
    for each, envs in zip(alone, owned, strict=True):
        each.reset(len(envs))
    begun, rng = [False] * 3, np.random.default_rng(0)
    for t in range(30):
        present = [i for i in rng.permutation(3).tolist() if rng.random() < 0.6]
        requests, expected = [], []
        for i in present:
            observation = sampled(RICH, len(owned[i]), 100 * t + i)
            start = (rng.random(len(owned[i])) < 0.1) | (not begun[i])
            greedy = bool(rng.random() < 0.3)
            requests.append(StepRequest(owned[i], observation, start, greedy=greedy, restart=not begun[i]))
            expected.append(alone[i]._stepper.step(observation, start, greedy=greedy))
            begun[i] = True
        for found, wanted in zip(agent.answer(requests), expected, strict=True):
            np.testing.assert_equal(found, wanted)
    assert begun == [True] * 3


def told(mission: str, count: int = 1) -> Columns:
    return {"mission": np.full(count, mission, object), "x": np.zeros((count, 2), np.float32)}


def test_an_error_of_one_client_is_its_own() -> None:
    task = TrainedTask("Told-v0", TOLD, Discrete(5), prompt=INSTRUCTION)
    agent, alone = slots(task, 4), Agent(checkpoint_of(task), task)
    alone.reset(1)
    start, later = np.ones(1, np.bool_), np.zeros(1, np.bool_)
    good, bad = np.array([1]), np.array([0])
    for t in range(5):
        wanted = alone._stepper.step(told("go"), start if t == 0 else later)
        pair = np.array([2, 3])
        second = {**told("go", 2), "mission": np.array(["go", "go" if t == 0 else "ball"], object)}
        outcomes = agent.answer([
            StepRequest(pair, second, np.full(2, t == 0)),
            StepRequest(good, told("go"), start if t == 0 else later),
            StepRequest(bad, told("red " * 12), start),
        ])  # fmt: skip
        np.testing.assert_equal(outcomes[1], wanted)
        assert isinstance(outcomes[2], GatoError) and "Told-v0: environment 0: " in str(outcomes[2])
        assert isinstance(outcomes[0], GatoError) == (t > 0)
        if t > 0:
            assert "Told-v0: environment 1: " in str(outcomes[0])


def test_a_mask_that_allows_nothing_is_an_error_of_its_client() -> None:
    task = TrainedTask("Toy-v0", Box(-1, 1, (2,)), Discrete(3))
    agent, start = slots(task, 3), np.ones(1, np.bool_)
    requests = [
        StepRequest(np.array([i]), sampled(task.observation_space, 1, i), start, masks)
        for i, masks in enumerate([[np.array([0, 0, 1])], [np.zeros(3, int)], None])
    ]
    first, second, third = agent.answer(requests)
    assert isinstance(first, dict) and first[""].tolist() == [2]
    assert isinstance(second, GatoError) and "allows no value" in str(second)
    assert isinstance(third, dict)


def test_a_failure_that_names_no_client_is_tried_for_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TrainedTask("Toy-v0", Box(-1, 1, (2,)), Discrete(3))
    agent = slots(task, 3)
    step, start = agent._stepper.decoder.step, np.ones(1, np.bool_)

    def fails_for_one(prefill: Any, options: Any, envs: torch.Tensor) -> torch.Tensor:
        if 1 in envs.tolist():
            raise RuntimeError("out of memory")
        return step(prefill, options, envs)

    monkeypatch.setattr(agent._stepper.decoder, "step", fails_for_one)
    requests = [StepRequest(np.array([i]), sampled(task.observation_space, 1, i), start) for i in range(3)]
    outcomes = agent.answer(requests)
    assert [isinstance(outcome, dict) for outcome in outcomes] == [True, False, True]
    assert str(outcomes[1]) == "the server cannot act: RuntimeError: out of memory"


@pytest.mark.parametrize("space", [RICH, TOLD, Discrete(4, start=2)])
def test_it_warms_up_on_any_space(space: Space[Any]) -> None:
    agent = slots(TrainedTask("Toy-v0", space, HANDS), 2)
    agent.warm_up()
    assert agent._stepper.inputs.steps.tolist() == [1, 0]
