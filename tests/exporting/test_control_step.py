"""The exported module acts as the agent does: in every layout, for every kind of space, past the context."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.spaces.views import View
from gato_agent.exporting.graph_actor import GraphActor
from gato_agent.inference.agent import Agent
from gato_agent.tokens.prompt import Prompt
from gato_agent.tokens.text_tokenizer import TextTokenizer
from tests.helpers.exported import Compared, control_step, eager_actor, sampled_batches
from tests.helpers.harsh import harsh
from tests.helpers.shapes import NANO

SMALL = dataclasses.replace(NANO, context=48, layers=2)
TEXT = TextTokenizer.train(["abc"], 300)
EVERYTHING = Dict({
    "camera": Box(0, 255, (20, 32, 3), np.uint8),
    "goal": Text(4, charset="abc"),
    "near": Discrete(3),
    "x": Box(-np.inf, np.inf, (2,)),
})  # fmt: skip
MOVES = Dict({"grip": Discrete(3), "move": Box(-1, 2, (2,))})
LAYOUTS: list[dict[str, Any]] = [
    {}, {"past_actions": True}, {"values_per_token": 2}, {"action_decoder": True},
    {"action_decoder": True, "values_per_token": 64}, {"past_actions": True, "values_per_token": 2},
]  # fmt: skip


def checkpoint_of(task: TrainedTask, **fields: Any) -> Checkpoint:
    return Checkpoint(harsh(dataclasses.replace(SMALL, **fields)), {task.id: task}, TEXT)


def played(checkpoint: Checkpoint, task: TrainedTask, num_envs: int = 2, steps: int = 30) -> Compared:
    """Agent and exported step with the same random observations; environment 1 begins a second episode."""
    compared = Compared(Agent(checkpoint, task, temperature=0.0), eager_actor(checkpoint, task, num_envs))
    compared.reset(num_envs)
    for t, observation in enumerate(sampled_batches(task.observation_space, num_envs, steps)):
        compared.act(observation, np.arange(num_envs) >= (0 if t == 0 else 1 if t == steps // 2 else num_envs))
    return compared


@pytest.mark.parametrize("fields", LAYOUTS, ids=str)
def test_it_acts_as_the_agent_in_every_layout_past_its_context(fields: dict[str, Any]) -> None:
    task = TrainedTask("Toy-v0", EVERYTHING, MOVES, text_pieces=6)
    assert played(checkpoint_of(task, **fields), task).differing == 0


SPACES: list[tuple[Space[Any], Space[Any]]] = [
    (Discrete(5, start=-2), Discrete(7, start=-3)),
    (Discrete(5000, start=3), Discrete(4672, start=-1)),
    (Discrete(1031), Discrete(1031)),
    (Discrete(5_000_000_011), MultiDiscrete([5_000_000_011, 2**40 + 1])),
    (MultiDiscrete(np.array([[2, 3], [4, 5]])), MultiDiscrete([3, 2000, 2])),
    (MultiBinary((2, 3)), MultiBinary(4)),
    (Box(0, 1, (2, 2), np.bool_), Box(0, 1, (3,), np.bool_)),
    (Box(-1, 1, (), np.float16), Box(0, np.inf, (2, 2), np.float64)),
    (Box(-np.inf, 3, (3,), np.float64), Box(-np.inf, np.inf, (), np.float16)),
    (Box(-(2**63), 2**63 - 1, (3,), np.int64), Box(-(2**63), 2**63 - 1, (2,), np.int64)),
    (Box(0, 2**64 - 1, (3,), np.uint64), Box(0, 2**64 - 1, (2,), np.uint64)),
    (Box(5, 300, (2,), np.uint16), Box(5, 40_000, (2,), np.uint16)),
    (Box(0, 255, (36, 40, 12), np.uint8), Box(0, 255, (2,), np.uint8)),
    (Box(0, 255, (4, 36, 40), np.uint8), Box(-128, 127, (2,), np.int8)),
    (Box(0, 255, (36, 40), np.uint8), Text(4, min_length=1, charset="abé")),
    (Tuple((Discrete(2), Dict(z=Tuple((MultiBinary(2), Box(-1, 1, (1,))))))), Tuple((Discrete(2), Text(2)))),
    (Box(-1, 1, (3,)), MultiDiscrete([3] * 40)),
]


@pytest.mark.parametrize("spaces", SPACES, ids=str)
@pytest.mark.parametrize("fields", [{"action_decoder": True, "values_per_token": 64}, {}], ids=["decoder", "stream"])
def test_it_acts_as_the_agent_for_every_kind_of_space(
    spaces: tuple[Space[Any], Space[Any]], fields: dict[str, Any]
) -> None:
    task = TrainedTask("Toy-v0", *spaces)
    compared = played(checkpoint_of(task, context=128, **fields), task, steps=8)
    assert (compared.steps, compared.differing) == (8, 0)


VIEWS: list[tuple[list[dict[str, Any]], Space[Any]]] = [
    ([{"select": "", "index": [2, 0]}, {"scale": "", "low": [0, -3], "high": [1, 3]}], Box(-5, 5, (3,))),
    ([{"cells": "image", "sizes": [11, 6, 3]}, {"drop": "no"}],
     Dict(image=Box(0, np.tile(np.uint8([10, 5, 2]), (4, 5, 1)), (4, 5, 3), np.uint8), no=Box(-1, 1, (2,)))),
    ([{"planes": "a/b", "times": [23, 51, 1, 2, 3]}], Dict({"a/b": Box(0, 5, (4, 5, 5), np.uint8)})),
    ([{"planes": "", "times": [255] * 4}], Box(0, 1, (10, 10, 4), np.bool_)),
    ([{"fold": "", "rows": [2, 38]}], Box(0, 255, (40, 36, 3), np.uint8)),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "space"), VIEWS, ids=str)
def test_it_applies_the_view(steps: list[dict[str, Any]], space: Space[Any]) -> None:
    if isinstance(space, Dict) and "a/b" in space.spaces:
        steps = [{**steps[0], "planes": "a~1b"}]
    task = TrainedTask("Toy-v0", space, MOVES, view=View.from_json(steps))
    assert played(checkpoint_of(task, action_decoder=True, values_per_token=8), task, steps=6).differing == 0


def test_a_constant_prompt_is_in_the_graph() -> None:
    task = TrainedTask("Toy-v0", EVERYTHING, MOVES, text_pieces=6, prompt=Prompt("text", 4, "ab"))
    assert played(checkpoint_of(task, action_decoder=True), task).differing == 0


@pytest.mark.parametrize("fields", [{"action_decoder": True}, {"past_actions": True}], ids=str)
def test_sampled_actions_follow_from_the_random_numbers(fields: dict[str, Any]) -> None:
    task = TrainedTask("Toy-v0", Box(-1, 1, (3,)), MOVES, temperature=0.8)
    checkpoint = checkpoint_of(task, **fields)
    agent, exported = Agent(checkpoint, task, seed=5), eager_actor(checkpoint, task, 1, 0.8)
    compared = Compared(agent, exported)
    compared.reset(1)
    uniforms = [agent._stepper.sampler.uniforms(3) for _ in range(10)]
    agent.reset(1)
    exported._generators = [Replayed([each[0].numpy() for each in uniforms if each is not None])]  # type: ignore[list-item]
    for t, observation in enumerate(sampled_batches(task.observation_space, 1, 10)):
        compared.act(observation, np.array([t == 0]))
    assert compared.differing == 0


class Replayed:
    """Random generator that returns given numbers."""

    def __init__(self, numbers: list[Any]) -> None:
        self._numbers = numbers

    def random(self, count: int) -> Any:
        return self._numbers.pop(0)[:count]


def bad(space: Space[Any], value: Any, view: list[dict[str, Any]] | None = None) -> tuple[GraphActor, Any]:
    task = TrainedTask("Toy-v0", space, Discrete(2), view=View.from_json(view or []))
    return eager_actor(checkpoint_of(task, action_decoder=True), task), value


@pytest.mark.parametrize(
    ("space", "value", "view"),
    [
        (Box(-1, 1, (2,)), np.array([[0, np.nan]], np.float32), []),
        (Box(-1, 1, (2,)), np.array([[np.inf, 0]], np.float32), []),
        (Discrete(3), np.array([3]), []),
        (Discrete(3, start=2), np.array([1]), []),
        (Discrete(2000), np.array([2000]), []),
        (Box(0, 5, (1, 1), np.uint8), np.array([[[6]]], np.uint8), [{"cells": "", "sizes": [6]}]),
        (Box(0, 5, (1, 1, 1), np.uint8), np.array([[[[200]]]], np.uint8), [{"planes": "", "times": [2]}]),
    ],
    ids=str,
)
def test_an_observation_outside_of_its_space_is_refused(space: Space[Any], value: Any, view: Any) -> None:
    actor, observation = bad(space, value, view)
    with pytest.raises(GatoError, match="Toy-v0: observation in environment 0 is not in the space"):
        actor.act(observation, np.array([True]))


def test_an_action_of_too_many_tokens_is_refused() -> None:
    task = TrainedTask("Toy-v0", Box(-1, 1, (3,)), MultiBinary(600))
    with pytest.raises(UsageError, match="Toy-v0: an action of 600 tokens, and a graph writes out at most 512"):
        control_step(checkpoint_of(task, action_decoder=True), task)


@pytest.mark.parametrize("spaces", [(Discrete(2**62 + 1), Discrete(2)), (Discrete(2), Discrete(2**62 + 1))], ids=str)
def test_values_whose_digits_are_beyond_int64_are_refused(spaces: tuple[Space[Any], Space[Any]]) -> None:
    task = TrainedTask("Toy-v0", *spaces)
    with pytest.raises(UsageError, match=r"a graph cannot split 4,611,\S+ discrete values into digits exactly"):
        control_step(checkpoint_of(task, action_decoder=True), task)
