"""Action masks in the forms of Gymnasium and sb3-contrib; what they allow is what is played."""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from numpy.typing import NDArray

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError, SpaceError, UsageError
from gato_agent.inference.action_mask import ActionMasks
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.tokens.space_tokenizer import SpaceTokenizer, Vocabulary

OBSERVATION = Box(-1, 1, (2,), np.float32)


def masks_of(space: Space[Any]) -> ActionMasks:
    return ActionMasks(space, SpaceTokenizer(OBSERVATION, space, Vocabulary(64)))


@pytest.mark.parametrize(("space", "mask", "expected"), [
    (Discrete(3, start=-1), np.array([1, 0, 1], np.int8), [1, 0, 1]),
    (Discrete(3), [True, False, True], [1, 0, 1]),
    (MultiDiscrete([2, 3]), (np.array([1, 0]), np.array([0, 1, 1])), [1, 0, 0, 1, 1]),
    (MultiDiscrete([2, 3]), np.array([1, 0, 0, 1, 1], bool), [1, 0, 0, 1, 1]),
    (MultiDiscrete([[2, 2], [2, 2]]), np.ones(8), [1] * 8),
    (Discrete(3), np.array([1.0, 0.0, 1.0], np.float32), [1, 0, 1]),
    (MultiBinary(2), np.array([1, 0, 1, 1]), [1, 0, 1, 1]),
    (MultiBinary(3), np.array([0, 1, 2]), [1, 0, 0, 1, 1, 1]),
    (Tuple([Discrete(2), Discrete(2)]), (np.array([0, 1]), None), [0, 1, 1, 1]),
    (Dict({"": Dict({"": Discrete(2)})}), {"": {"": np.array([0, 1])}}, [0, 1]),
    (Dict({"b": Discrete(2), "a/~": Discrete(2)}), {"a/~": np.array([1, 0]), "b": np.array([0, 1])}, [1, 0, 0, 1]),
])  # fmt: skip
def test_all_forms_are_read(space: Space[Any], mask: Any, expected: list[int]) -> None:
    allowed = masks_of(space).allowed([None, mask])
    assert allowed is not None
    assert allowed[0].all() and allowed[1].astype(int).tolist() == expected


@pytest.mark.parametrize(("space", "mask", "match"), [
    (Discrete(3), np.array([1, 0]), "2 values instead of 3"),
    (Discrete(3), np.zeros(3, int), "allows no value of element 0"),
    (MultiDiscrete([2, 3]), np.array([1, 1, 0, 0, 0]), "allows no value of element 1"),
    (Discrete(2), np.array([1, 3]), "must hold 0 and 1$"),
    (Discrete(2), np.array([1, 2]), "must hold 0 and 1$"),
    (Discrete(2), np.array([0.0, -np.inf]), "must hold 0 and 1$"),
    (Discrete(2), np.array([0.5, 0.5]), "must hold 0 and 1$"),
    (Discrete(2), np.array([np.nan, 1.0]), "must hold 0 and 1$"),
    (Discrete(2), "11", "must hold 0 and 1$"),
    (Discrete(2), {0, 1}, "must hold 0 and 1$"),
    (Discrete(2), np.array([True, None], object), "must hold 0 and 1$"),
    (MultiBinary(2), np.array([1, 3]), "must hold 0 and 1, or 2 for both"),
    (Box(-1, 1, (2,)), np.ones(2, int), "a Box: only choices can be masked; remove it from the info in a wrapper"),
    (Dict({"a": Discrete(2)}), {"b": np.ones(2, int)}, "no entry 'a'"),
    (Discrete(4672), np.zeros(4672, int), "allows no value of element 0"),
    (Discrete(4672), np.ones(4671, int), "4671 values instead of 4672"),
    (Discrete(2**20 + 1), np.ones(2**20 + 1, int), "1,048,577 values: 1,048,576 can be masked"),
])  # fmt: skip
def test_masks_that_mean_nothing_are_refused(space: Space[Any], mask: Any, match: str) -> None:
    with pytest.raises(SpaceError, match=match):
        masks_of(space).allowed([mask])


SPACE = Dict({
    "go": Discrete(5, start=2), "how": MultiDiscrete([3, 4]), "bits": MultiBinary(3), "x": Box(-1, 1, (2,)),
    "chess": Discrete(4672, start=-3), "two": MultiDiscrete([1031, 5]),
})  # fmt: skip


def agent_of(action_decoder: bool, temperature: float) -> Agent:
    config = GatoConfig(1, 2, 64, 128, 40, 64, (32, 64), 32, action_decoder=action_decoder)
    task = TrainedTask("Toy-v0", OBSERVATION, SPACE)
    return Agent(Checkpoint(Gato(config).eval(), {task.id: task}), task, temperature=temperature)


def random_mask(rng: np.random.Generator) -> dict[str, Any]:
    def some(n: int) -> NDArray[np.int8]:
        mask = (rng.random(n) < 0.4).astype(np.int8)
        mask[rng.integers(n)] = 1
        return mask

    bits = rng.integers(0, 3, 3)
    two = np.zeros(1031, np.int8)
    two[rng.integers(1031)] = 1  # one value among digits that have more codes than values
    return {
        "go": some(5), "how": (some(3), some(4)), "bits": bits, "x": None, "chess": some(4672), "two": (two, some(5)),
    }  # fmt: skip


@pytest.mark.parametrize("action_decoder", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_actions_are_in_the_space_and_in_the_mask(action_decoder: bool, temperature: float) -> None:
    agent, rng = agent_of(action_decoder, temperature), np.random.default_rng(0)
    agent.reset(3)
    for _ in range(40):
        masks = [random_mask(rng), None, random_mask(rng)]
        actions = agent.act(rng.uniform(-1, 1, (3, 2)).astype(np.float32), masks=masks)
        for row, mask in enumerate(masks):
            action = {key: value[row] for key, value in actions.items()}
            assert SPACE.contains(action)
            if mask is not None:
                assert mask["go"][action["go"] - 2]
                assert all(part[value] for part, value in zip(mask["how"], action["how"], strict=True))
                assert mask["chess"][action["chess"] + 3]
                assert all(part[value] for part, value in zip(mask["two"], action["two"], strict=True))
                assert all(bit in (value, 2) for bit, value in zip(mask["bits"], action["bits"], strict=True))


def test_errors_name_environment_and_step() -> None:
    agent = agent_of(True, 0.0)
    agent.reset(2)
    seen = np.zeros((2, 2), np.float32)
    agent.act(seen)
    empty = {**random_mask(np.random.default_rng(0)), "go": np.zeros(5, np.int8)}
    with pytest.raises(GatoError, match=r"Toy-v0: action mask in environment 1, step 1: .*'go'.* allows no value"):
        agent.act(seen, masks=[None, empty])
    with pytest.raises(UsageError, match="1 action masks for 2 environments"):
        agent.act(seen, masks=[None])
