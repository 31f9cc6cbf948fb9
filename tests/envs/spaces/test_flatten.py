"""Columns and batches convert both ways, and spaces are restored from JSON exactly."""

import json

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, OneOf, Sequence, Space, Text, Tuple
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from gato_agent.envs.errors import SpaceError
from gato_agent.envs.spaces.flatten import batch, columns, leaves, row, space_from_json, space_to_json, stack
from tests.helpers.random_spaces import random_space, random_value

F32 = np.float32


def same(a, b) -> bool:
    """True if nested values are equal in bits and dtypes."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, str):
        return isinstance(b, str) and a == b
    return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("chunk", range(4))
def test_random_values_survive(chunk):
    for seed in range(chunk, 2000, 4):
        rng = np.random.default_rng(seed)
        space = random_space(rng)
        values = [random_value(rng, space) for _ in range(3)]
        stacked = stack(space, values)
        assert list(stacked) == [path for path, _ in leaves(space)]
        for path, leaf in leaves(space):
            assert stacked[path].dtype == (object if isinstance(leaf, Text) else leaf.dtype)
        assert all(same(row(space, stacked, i), value) for i, value in enumerate(values)), (seed, space)
        assert all(space.contains(row(space, stacked, i)) for i in range(3)), (seed, space)
        batched = concatenate(space, values, create_empty_array(space, 3))  # what a vector environment observes
        assert same(batch(space, stacked), batched), (seed, space)
        again = columns(space, batched)
        assert list(again) == list(stacked)
        assert all(
            same(again[k], stacked[k]) if again[k].dtype != object else (again[k] == stacked[k]).all() for k in again
        )


def test_a_vector_environment_takes_the_batch():
    space = Dict(t=Text(3), d=Discrete(4, start=-1, dtype=np.int8), n=Tuple((Box(-1, 1, (2,)), MultiBinary((2, 2)))))
    values = [
        {"t": t, "d": np.int8(d), "n": (np.full(2, d / 4, F32), np.eye(2, dtype=np.int8))}
        for t, d in [("a", -1), ("bc", 2)]
    ]
    acted = batch(space, stack(space, values))
    batched = batch_space(space, 2)
    assert batched.contains(acted)
    assert [action["t"] for action in iterate(batched, acted)] == ["a", "bc"]


def test_paths_are_json_pointers_in_lexicographic_order():
    space = Dict([("b", Discrete(2)), ("~1", Discrete(3)), ("a/b", Discrete(4)), ("", Discrete(5)), ("B", Discrete(6))])
    assert [(path, int(leaf.n)) for path, leaf in leaves(space)] == [
        ("", 5),
        ("B", 6),
        ("a~1b", 4),
        ("b", 2),
        ("~01", 3),
    ]
    wide = Dict(x=Tuple([Discrete(i + 1) for i in range(12)]))
    assert [path for path, _ in leaves(wide)] == [f"x/{i}" for i in range(12)]
    assert leaves(Discrete(2)) == [("", Discrete(2))]
    nested = Dict({"": Discrete(2), "a": Dict({"": Discrete(2), "/": Discrete(2)})})
    assert [path for path, _ in leaves(nested)] == ["", "a/", "a/~1"]


class Mission(Space[str]):
    """A subclass of Text, like MiniGrid's."""


@pytest.mark.parametrize(
    "space",
    [Graph(Box(0, 1), None), Sequence(Discrete(2)), OneOf([Discrete(2)]), Mission()],
    ids=lambda s: type(s).__name__,
)
def test_other_spaces_are_refused_by_name(space):
    for use in (leaves, space_to_json):
        with pytest.raises(
            SpaceError, match=rf"^{type(space).__name__} spaces are not supported: wrap the environment"
        ):
            use(space)
        with pytest.raises(SpaceError, match=rf"^'a/0': {type(space).__name__} spaces") as caught:
            use(Dict(a=Tuple([space])))
        assert caught.value.key == "a/0"


def test_keys_are_strings():
    with pytest.raises(SpaceError, match="'a': Dict key 3 is not a string"):
        leaves(Dict(a=Dict([(3, Discrete(2))])))


# ---- values that do not fit


POINT = Dict(p=Box(-1, 1, (2,), F32), k=Tuple((Discrete(3, dtype=np.uint8), Text(4))))
GOOD = {"p": np.zeros(2, F32), "k": (1, "ab")}


@pytest.mark.parametrize(
    ("bad", "key", "where", "message"),
    [
        ({"p": np.zeros(3, F32)}, "p", None, "'p': values have differing shapes"),
        ({"p": np.array(["0.5", "0.5"])}, "p", None, "'p': shape (2,) of <U32 instead of (2,) of float32"),
        ({"k": (-1, "ab")}, "k/0", 1, "'k/0': value is -1, which is no uint8"),
        ({"k": (0.5, "ab")}, "k/0", 1, "'k/0': value is 0.5, which is no uint8"),
        ({"k": (np.nan, "ab")}, "k/0", 1, "'k/0': value is nan, which is no uint8"),
        ({"k": (1, 7)}, "k/1", 1, "'k/1': int instead of str"),
        ({"k": (1,)}, "k/1", None, "'k/1': missing from the value"),
        ({"k": None}, "k/0", None, "'k/0': missing from the value"),
    ],
)
def test_a_value_that_does_not_fit_is_named(bad, key, where, message):
    with pytest.raises(SpaceError) as caught:
        stack(POINT, [GOOD, GOOD | bad])
    assert (caught.value.key, caught.value.row, str(caught.value)) == (key, where, message)


@pytest.mark.parametrize(
    ("space", "batch", "message"),
    [
        (Box(-1, 1, (2,)), np.zeros((4, 3)), r"^shape \(3,\) of float64 instead of \(2,\) of float32$"),
        (Box(-1, 1, ()), np.float32(0), r"^shape \(\) of float32"),
        (Dict(a=Discrete(2)), {}, "^'a': missing from the value$"),
        (Tuple([Discrete(2)]), (), "^'0': missing from the value$"),
        (Text(5), "hello", "^str instead of a sequence of str$"),
        (MultiDiscrete([2, 2]), np.array([[0, 1], [2**40, 0]]).astype(object), "of object instead of"),
    ],
    ids=str,
)
def test_a_batch_that_does_not_fit_is_named(space, batch, message):
    with pytest.raises(SpaceError, match=message):
        columns(space, batch)


def test_numbers_are_cast_where_nothing_is_lost():
    space = Tuple((Discrete(3, dtype=np.int8), Box(-1, 1, (1,)), MultiBinary(2), Box(0, 1, (1,), np.bool_)))
    stacked = stack(space, [(2, np.array([0.1]), [True, False], np.array([1]))])
    assert [column.dtype for column in stacked.values()] == [np.int8, np.float32, np.int8, np.bool_]
    assert stacked["1"] == F32(0.1) and stacked["2"].tolist() == [[1, 0]] and space.contains(row(space, stacked, 0))


# ---- JSON


def alike(a: Space, b: Space) -> bool:
    """True if spaces are equal, also in properties that Gymnasium's == ignores."""
    if isinstance(a, Box):
        fields = ("low", "high", "bounded_below", "bounded_above")
        return (
            type(b) is Box
            and all(same(*(np.asarray(getattr(box, f)) for box in (a, b))) for f in fields)
            and a.dtype == b.dtype
        )
    if isinstance(a, MultiDiscrete):
        return type(b) is MultiDiscrete and same(a.nvec, b.nvec) and same(a.start, b.start)
    if isinstance(a, Discrete):
        return type(b) is Discrete and same(a.n, b.n) and same(a.start, b.start)
    if isinstance(a, Dict):
        return type(b) is Dict and list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, Tuple):
        return type(b) is Tuple and len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and a == b and a.shape == b.shape


@pytest.mark.parametrize("chunk", range(4))
def test_random_spaces_survive_json(chunk):
    for seed in range(chunk, 2000, 4):
        space = random_space(np.random.default_rng(seed))
        text = json.dumps(space_to_json(space), allow_nan=False, sort_keys=True)
        again = space_from_json(json.loads(text))
        assert alike(space, again) and space == again, (seed, space)
        assert json.dumps(space_to_json(again), allow_nan=False, sort_keys=True) == text


def test_uniform_bounds_are_one_number():
    described = space_to_json(Box(0, 255, (210, 160, 3), np.uint8))
    assert described == {"kind": "Box", "shape": [210, 160, 3], "dtype": "uint8", "low": 0, "high": 255}
    assert space_to_json(Box(-np.inf, np.array([1, np.inf], F32))) == {
        "kind": "Box", "shape": [2], "dtype": "float32", "low": "-inf", "high": [1.0, "inf"]
    }  # fmt: skip


class Narrow(Box):
    """A subclass may mean more than its bounds."""


def test_subclasses_and_empty_boxes_have_no_json():
    with pytest.raises(SpaceError, match="Narrow spaces are not supported"):
        space_to_json(Narrow(0, 1))
    with pytest.raises(SpaceError, match="Box"):
        space_to_json(Box(np.inf, np.inf))
    with pytest.raises(SpaceError, match="Box"):
        space_to_json(Box(0, 1, dtype=np.longdouble))


BOX = space_to_json(Box(-1, 1, (2,)))


@pytest.mark.parametrize(
    "bad",
    [
        None, [], "Box", {}, {"kind": "Graph"}, {"kind": "__import__"}, {"kind": "Tuple", "spaces": [{}]},
        {"kind": "Dict", "spaces": {"a": BOX}}, {"kind": "Text", "min_length": 3, "max_length": 1, "charset": "a"},
        BOX | {"dtype": "object"}, BOX | {"dtype": "float128"}, BOX | {"dtype": "no such"}, BOX | {"dtype": None},
        BOX | {"shape": [10**6, 10**6]}, BOX | {"shape": [-1]}, BOX | {"shape": [2.0]}, BOX | {"shape": "2"},
        BOX | {"low": 2}, BOX | {"low": float("nan")}, BOX | {"low": [0, 0, 0]}, BOX | {"low": "0"},
        BOX | {"low": 0.1}, BOX | {"low": "inf"}, BOX | {"high": "-inf"}, BOX | {"low": [[0, 0]]},
        BOX | {"high": 1e300}, BOX | {"low": None},
        {"kind": "Discrete", "shape": [], "dtype": "int8", "n": 300, "start": 0},
        {"kind": "Discrete", "shape": [], "dtype": "int8", "n": 2.5, "start": 0},
        {"kind": "Discrete", "shape": [], "dtype": "int64", "n": "inf", "start": 0},
        {"kind": "Discrete", "shape": [], "dtype": "int64", "n": 0, "start": 0},
        {"kind": "MultiDiscrete", "shape": [2], "dtype": "int64", "n": [1, -1], "start": 0},
        {"kind": "MultiBinary", "n": 0}, {"kind": "MultiBinary", "n": [2, 0]}, {"kind": "MultiBinary", "n": "12"},
        {"kind": "MultiBinary", "n": [10**9, 10**9]}, {"kind": "MultiBinary", "n": [2.5]},
    ],
    ids=str,
)  # fmt: skip
def test_what_describes_no_space_is_refused(bad):
    with pytest.raises(SpaceError):
        space_from_json(bad)


def test_a_deep_description_is_refused():
    deep: dict = BOX
    for _ in range(100_000):
        deep = {"kind": "Tuple", "spaces": [deep]}
    with pytest.raises(SpaceError, match="not the description of a space"):
        space_from_json(deep)
