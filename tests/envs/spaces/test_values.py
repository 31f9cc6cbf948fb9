"""Single values, columns and tokens are validated by the same rules."""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from hypothesis import given
from hypothesis import strategies as st

from gato_agent.envs.errors import SpaceError
from gato_agent.envs.spaces.flatten import leaves, row, stack
from gato_agent.envs.spaces.leaf_kind import CHOICES
from gato_agent.envs.spaces.step_results import success_of
from gato_agent.envs.spaces.values import LeafValidator, column_validator, validator
from gato_agent.tokens.space_tokenizer import BINS, SpaceTokenizer, Vocabulary
from tests.helpers.random_spaces import FLOATS, INTEGERS, random_space, random_value

DTYPES = ["bool", *INTEGERS, *FLOATS]
VOCABULARY = Vocabulary(300)


def one_of_each(dtype: str) -> list[Space[Any]]:
    """Leaves of each kind in a dtype, with bounds within the dtype's range if possible."""
    kind = np.dtype(dtype).type
    found: list[Space[Any]] = [Box(0, 1, (2,), kind), Box(0, 1, (), kind)]
    if dtype in FLOATS:
        return [
            *found,
            Box(-np.inf, np.inf, (2,), kind),
            Box(np.array([-1, 1], kind), np.array([1, np.inf], kind), dtype=kind),
        ]
    if dtype in INTEGERS:
        most = min(2000, int(np.iinfo(kind).max))
        found += [Box(0, 8, (2,), kind), Box(0, most, (2,), kind)]
        found += [Box(-np.inf, np.inf, (2,), kind)] if dtype[0] == "i" else []
        found += [Discrete(8, start=2, dtype=kind), MultiDiscrete([3, 5], dtype=kind)]
    return [*found, *([MultiBinary(2), Text(5), Text(3, charset="ab")] if dtype == "int8" else [])]


LEAVES = [space for dtype in DTYPES for space in one_of_each(dtype)]
NUMBERS = [0, 1, 2, 7, 8, 9, 10, 100, 2001, -1, 0.5, 1.0 + 1e-12, -0.0, 7e4, 1e300, np.nan, np.inf, -np.inf]
TEXTS = ["", "ab", "a b", "abcdef", "\u00e9", "\ud800", "z\0", b"ab", None, 3, np.str_("ab")]


def raw_values(space: Space[Any]) -> list[Any]:
    """Values of many dtypes and types that an environment or expert might return for a leaf."""
    if isinstance(space, Text):
        return TEXTS
    shape, found = space.shape or (), []
    for dtype in [*DTYPES, "longdouble", "object", "complex128"]:
        for number in NUMBERS:
            with np.errstate(all="ignore"):
                try:
                    found.append(np.full(shape, number).astype(dtype))
                except (OverflowError, ValueError):
                    continue
    found += [array.tolist() for array in found[::7]]
    return [*found, None, "1", [], np.zeros((*shape, 1)), np.zeros((3, *shape)), [[0.0], [0.0, 1.0]], {"a": 0}]


def outcome(call: Any) -> Any:
    """Result of a call, or its error message without the row."""
    try:
        return call()
    except SpaceError as error:
        return str(error)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("space", LEAVES, ids=str)
def test_single_values_and_columns_and_tokens_agree(space: Space[Any], acted: bool) -> None:
    hold, columns = validator(space, acted), column_validator(space, acted)
    tokenizer = SpaceTokenizer(space, space, VOCABULARY, lambda text: list(text.encode()))
    encode = tokenizer.encode_actions if acted else tokenizer.encode_observations
    kept = refused = 0
    for value in raw_values(space):
        one = outcome(lambda value=value: hold(value))
        many = outcome(lambda value=value: columns(stack(space, [value])))
        if isinstance(many, str):
            refused += 1
            assert one == many
            continue
        kept += 1
        assert repr(stack(space, [one])) == repr(many)
        if not isinstance(space, Discrete | Text):
            assert (one.dtype, one.shape) == (space.dtype, space.shape)
        assert repr(hold(one)) == repr(one)
        encode(many)
        if acted:
            assert space.contains(row(space, many, 0))
        if not isinstance(space, Text) and np.dtype(space.dtype).kind != "f":
            assert np.array_equal(np.asarray(one), np.asarray(value))
    assert kept and refused


@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("space", [s for s in LEAVES if not isinstance(s, Text)], ids=str)
def test_tokens_refuse_what_cannot_be_held(space: Space[Any], acted: bool) -> None:
    """Values of the right shape and dtype: tokens and validation agree, except that tokens clip an action's floats."""
    tokenizer = SpaceTokenizer(space, space, VOCABULARY)
    encode = tokenizer.encode_actions if acted else tokenizer.encode_observations
    for number in NUMBERS:
        with np.errstate(all="ignore"):
            column = np.full((1, *(space.shape or ())), number).astype(space.dtype)
        held = outcome(lambda column=column: column_validator(space, acted)({"": column}))
        tokens = outcome(lambda column=column: encode({"": column}))
        if isinstance(tokens, str):
            assert held == tokens
        elif isinstance(held, str):
            assert acted and isinstance(space, Box) and "beyond its bounds" in held


@given(st.integers(0, 10**6), st.booleans())
def test_whatever_a_space_contains_is_held_as_it_is(seed: int, acted: bool) -> None:
    rng = np.random.default_rng(seed)
    space = random_space(rng)
    value = random_value(rng, space)
    held = validator(space, acted)(value)
    assert space.contains(held)
    assert repr(stack(space, [held])) == repr(stack(space, [value]))
    columns = stack(space, [value, value])
    for path, column in column_validator(space, acted)(columns).items():
        assert column.dtype == object or column is columns[path]


def test_the_row_and_the_element_are_named() -> None:
    leaf = leaves(Dict(a=Box(0, 8, (2, 2), np.uint8)))[0]
    column = np.zeros((5, 2, 2))
    column[3, 1, 0] = 9
    with pytest.raises(SpaceError, match=r"^'a': element \[1, 0\] is 9, beyond its bounds 0 to 8$") as caught:
        LeafValidator(leaf, acted=False).column(column)
    assert (caught.value.key, caught.value.row) == ("a", 3)
    with pytest.raises(SpaceError, match=r"^'a': missing$"):
        column_validator(Dict(a=Discrete(2)))({})


def test_other_entries_are_left_out_and_lists_become_tuples() -> None:
    space = Dict(b=Tuple((Discrete(2), Text(3))), a=Discrete(3))
    assert validator(space)({"a": 1.0, "b": [np.int8(1), "x"], "c": object()}) == {"b": (1, "x"), "a": 1}
    for value in (None, {"a": 1}, {"a": 1, "b": 3}, {"a": 1, "b": (0,)}, [1, 2], "text"):
        assert isinstance(outcome(lambda value=value: validator(space)(value)), str)


def test_what_lies_beyond_is_clipped_where_that_is_asked_for() -> None:
    space = Dict(x=Box(np.float32(-1), np.float32(1), (2,)), n=Box(0, 8, (), np.int8), d=Discrete(2))
    hold = column_validator(space, acted=True, clip=True)
    held = hold({"x": np.array([[-2.0, 0.5]]), "n": np.array([9]), "d": np.array([1])})
    assert (held["x"].tolist(), held["n"].tolist()) == ([[-1.0, 0.5]], [8])
    for wrong in ({"x": np.array([[np.nan, 0]])}, {"d": np.array([2])}):
        assert isinstance(outcome(lambda wrong=wrong: hold(held | wrong)), str)


BOX = Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "values", "sure"),
    [
        (BOX, [np.zeros(2, np.float32)] * 3, True),
        (BOX, [np.zeros(2, np.float64)], True),  # is cast: Box.contains alone says no
        (BOX, [np.zeros(2, np.float32), np.full(2, np.nan, np.float32)], False),
        (BOX, [np.zeros(2, np.float32), np.full(2, 1.1, np.float32)], False),
        (BOX, [np.zeros(3, np.float32)], False),
        (BOX, [np.zeros(2, np.float32), np.zeros(3, np.float32)], False),
        (Discrete(3, start=1), [np.int64(1), np.int64(3)], True),
        (Discrete(3, start=1), [np.int64(0)], False),
        (Discrete(3, start=1), [np.int64(4)], False),
        (Discrete(3, start=1), [1.0], True),
        (MultiDiscrete([2, 3]), [np.array([1, 2])], True),
        (MultiDiscrete([2, 3]), [np.array([2, 2])], False),
    ],
)
def test_actions_outside_their_space_are_refused(space: Space[Any], values: list[Any], sure: bool) -> None:
    held = outcome(lambda: column_validator(space, acted=True)(stack(space, values)))
    assert isinstance(held, dict) is sure
    if sure:
        assert all(space.contains(row(space, held, t)) for t in range(len(values)))


def test_values_of_spaces_without_a_rule_are_passed_on() -> None:
    value = object()
    assert validator(Space())(value) is value


def test_as_many_integers_of_a_box_are_choices_as_have_tokens() -> None:
    assert CHOICES == BINS
    narrow, wide = Box(0, CHOICES - 1, (), np.int32), Box(0, CHOICES, (), np.int32)
    assert isinstance(outcome(lambda: validator(narrow)(CHOICES)), str)
    assert validator(wide)(CHOICES + 1) == CHOICES + 1
    assert isinstance(outcome(lambda: validator(wide, acted=True)(CHOICES + 1)), str)


class Opaque:
    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize(
    ("info", "success"),
    [
        ({}, None),
        ({"legal_moves": np.arange(3)}, None),
        ({"success": True}, True),
        ({"success": False, "is_success": 1.0}, True),
        ({"is_success": np.array([0, 0])}, False),
        ({"is_success": np.array([False, True])}, True),
        ({"success": Opaque()}, False),
    ],
)
def test_success_is_looked_up_and_no_more(info: dict[str, Any], success: bool | None) -> None:
    assert success_of(info) is success
