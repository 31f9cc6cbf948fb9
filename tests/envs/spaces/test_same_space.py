"""Spaces of the same meaning have the same tokens, and others are told apart."""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

from gato_agent.envs.spaces.flatten import columns, stack
from gato_agent.envs.spaces.same_space import plain_space, same_meaning
from gato_agent.tokens.space_tokenizer import SpaceTokenizer, Vocabulary

BOUNDS = np.array([2.4, 0.1, 7.7])


class Mission(Space[str]):
    """A custom space of strings, as minigrid has one."""

    def __init__(self) -> None:
        super().__init__(dtype=str)  # type: ignore[arg-type]

    def sample(self, *_: Any, **__: Any) -> str:
        return "go to the red ball"


def box(dtype: Any, high: Any = BOUNDS) -> Box[Any]:
    return Box(-np.asarray(high, dtype), np.asarray(high, dtype), dtype=dtype)


SAME = {
    "float widths": (box(np.float32), box(np.float64)),
    "unbounded": (Box(-np.inf, np.inf, (2,)), Box(-np.inf, np.inf, (2,), np.float64)),
    "integer widths": (Box(-3, 90, (4,), np.int32), Box(-3, 90, (4,), np.int64)),
    "signs": (Box(0, 90, (4,), np.int16), Box(0, 90, (4,), np.uint16)),
    "discrete": (Discrete(5, start=-1), Discrete(5, start=-1, dtype=np.int32)),
    "multi": (MultiDiscrete([3, 4]), MultiDiscrete([3, 4], dtype=np.int32)),
    "binary": (MultiBinary(4), MultiBinary([4])),
    "order": (Dict([("a", Discrete(2)), ("b", Discrete(3))]), Dict([("b", Discrete(3)), ("a", Discrete(2))])),
    "nested": (
        Tuple((Dict(a=box(np.float32)), Discrete(2))),
        Tuple((Dict(a=box(np.float64)), Discrete(2, dtype=np.int8))),
    ),
}
OTHER = {
    "bounds": (box(np.float32), box(np.float32, BOUNDS + 0.1)),
    "shape": (Box(-1, 1, (2,)), Box(-1, 1, (2, 1))),
    "image": (Box(0, 255, (20, 20, 3), np.uint8), Box(0, 255, (20, 20, 3), np.int32)),
    "kind": (Box(0, 1, (2,)), Box(0, 1, (2,), np.int64)),
    "bool": (Box(0, 1, (2,), np.bool_), Box(0, 1, (2,), np.int8)),
    "start": (Discrete(5), Discrete(5, start=1)),
    "number": (Discrete(5), Discrete(6)),
    "classes": (Discrete(2), MultiDiscrete([2])),
    "multi": (MultiDiscrete([3, 4]), MultiDiscrete([4, 3])),
    "keys": (Dict(a=Discrete(2)), Dict(b=Discrete(2))),
    "dict and tuple": (Dict({"0": Discrete(2)}), Tuple((Discrete(2),))),
    "length": (Tuple((Discrete(2),)), Tuple((Discrete(2), Discrete(2)))),
    "text": (Text(3), Discrete(3)),
}


@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("name", SAME)
def test_the_same(name: str, acted: bool) -> None:
    a, b = SAME[name]
    assert same_meaning(a, b, acted=acted) and same_meaning(b, a, acted=acted) and same_meaning(a, a, acted=acted)


@pytest.mark.parametrize("name", SAME)
def test_the_same_values_have_the_same_tokens(name: str) -> None:
    a, b = SAME[name]
    a.seed(0)
    values = [a.sample() for _ in range(20)]
    tokens = []
    for space in (a, b):
        tokenizer = SpaceTokenizer(space, space, Vocabulary(100))
        seen = stack(space, values)
        tokens.append((tokenizer.encode_observations(seen).tokens, tokenizer.encode_actions(seen)))
    np.testing.assert_equal(*tokens)


@pytest.mark.parametrize("name", OTHER)
def test_others(name: str) -> None:
    a, b = OTHER[name]
    assert not same_meaning(a, b) and not same_meaning(b, a)


def test_observed_strings_are_alike_and_written_ones_are_not() -> None:
    short, long = Text(3, charset="ab"), Text(9, charset="abc")
    assert same_meaning(short, long)
    assert not same_meaning(short, long, acted=True)
    assert same_meaning(Dict(mission=Mission(), x=Discrete(2)), Dict(mission=Text(321), x=Discrete(2)))
    assert not same_meaning(Mission(), Discrete(2))


def test_plain_spaces_hold_whole_strings_in_arrays() -> None:
    inner = Dict([("z", Mission()), ("a", Tuple((Text(30), Discrete(2))))])
    plain = plain_space(inner)
    assert list(plain.spaces) == ["z", "a"]  # type: ignore[attr-defined]
    assert plain_space(plain) is plain
    assert inner["a"][0].dtype.kind == "U"  # the environment's own space is as it was
    buffer = np.zeros(2, plain["z"].dtype)  # type: ignore[index]
    buffer[:] = ["go to the red ball", "go"]
    assert columns(plain["z"], buffer)[""].tolist() == ["go to the red ball", "go"]  # type: ignore[index]
    for space in (Discrete(2), box(np.float32), Dict(a=Discrete(2))):
        assert plain_space(space) is space
