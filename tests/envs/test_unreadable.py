"""Values of other packages' classes in every place of a step: taken, or one error with environment and seed."""

import array
import warnings
from collections import deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from gato_agent.envs.checked_env import CheckedEnv
from gato_agent.envs.errors import GatoError
from gato_agent.envs.loop import steps
from gato_agent.envs.random_actor import RandomActor
from gato_agent.envs.vector import SeparateInfos


class Raises:
    """An object that cannot be converted, compared, measured or shown."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise self._error

    def __float__(self) -> float:
        raise self._error

    def __len__(self) -> int:
        raise self._error

    def __bool__(self) -> bool:
        raise self._error

    def __repr__(self) -> str:
        raise RuntimeError("no representation")


def nested(depth: int) -> Any:
    value: Any = 0.0
    for _ in range(depth):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
ERRORS = (RuntimeError, TypeError, ValueError, KeyError, MemoryError, SystemExit, StopIteration, OSError)
VALUES: dict[str, Any] = {
    **{f"raises {error.__name__}": Raises(error("no")) for error in ERRORS},
    "tensor": torch.zeros(2), "gradient": torch.zeros(2, requires_grad=True), "sparse": torch.zeros(2).to_sparse(),
    "elsewhere": torch.zeros(2, device="meta"), "bfloat16": torch.zeros(2, dtype=torch.bfloat16),
    "complex": np.zeros(2, complex), "records": np.zeros(2, [("a", "f4")]),
    "times": np.zeros(2, "M8[s]"), "objects": np.array([None, 0], object),
    "masked": np.ma.masked_array([0, 0], [0, 1]), "other order": np.zeros(2, ">f4"), "long": np.zeros(2, np.longdouble),
    "huge": np.broadcast_to(np.float32(0), (2**40,)), "number": np.float32(0), "row": np.zeros((1, 2)),
    "nothing": np.zeros(0), "list": [0, 0], "tuple": (0, 0), "ragged": [[0], [0, 1]], "cycle": CYCLE,
    "deep": nested(3000), "decimals": [Decimal(0)] * 2, "fractions": [Fraction(1, 2)] * 2, "large": [10**400, 0],
    "range": range(2), "bytes": b"\0\0", "buffer": memoryview(b"\0\0"), "array": array.array("f", [0, 0]),
    "deque": deque([0, 0]), "text": "ab", "texts": ["0", "1"], "none": None, "dict": {0: 0, 1: 1}, "set": {0, 1},
    "class": int, "function": print, "nan": np.array([np.nan, 0]),
}  # fmt: skip
PLACES = ("observation", "entry", "reward", "terminated", "truncated", "info", "action_mask", "is_success")


class Odd(gym.Env[Any, Any]):
    """An environment that returns a value in one place of each step."""

    def __init__(self, place: str, value: Any) -> None:
        box = Box(-1, 1, (2,))
        self.observation_space = Dict({"a": box}) if place == "entry" else box
        self.action_space = Discrete(3)
        self._place, self._value, self._t = place, value, 0

    def _observation(self, value: Any) -> Any:
        return {"a": value} if self._place == "entry" else value

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._t = 0
        return self._observation(np.zeros(2, np.float32)), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        self._t += 1
        values: dict[str, Any] = {
            "observation": np.zeros(2, np.float32), "reward": 1.0, "terminated": self._t > 2, "truncated": False,
            "info": {},
        }  # fmt: skip
        if self._place in values:
            values[self._place] = self._value
        elif self._place == "entry":
            values["observation"] = self._observation(self._value)
        else:
            values["info"] = {self._place: self._value}
        return tuple(values.values())  # type: ignore[return-value]


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_any_value_is_taken_or_refused_by_environment_and_seed(place: str, num_envs: int) -> None:
    for name, value in VALUES.items():
        envs = SeparateInfos([lambda v=value: CheckedEnv(Odd(place, v), "Odd-v0", num_envs > 1)] * num_envs)
        actor = RandomActor(envs.single_action_space, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for step in steps(actor, envs, range(3)):
                    if step.t > 5:
                        break
            except GatoError as error:
                message = str(error)
                assert message.startswith(("Odd-v0: ", "Odd: ")) and "seed 0" in message, (name, message)
                assert "\n" not in message and len(message) < 900, (name, message)


@pytest.mark.parametrize("name", ["gradient", "elsewhere", "bfloat16", "raises RuntimeError", "raises SystemExit"])
def test_the_cause_is_in_the_message(name: str) -> None:
    envs = SeparateInfos([lambda: CheckedEnv(Odd("observation", VALUES[name]), "Odd-v0")])
    with pytest.raises(GatoError, match=r"step 0 of seed 0 returned .* cannot be read as an array \(\w+(Error|Exit): "):
        list(steps(RandomActor(envs.single_action_space, 0), envs, [0]))
