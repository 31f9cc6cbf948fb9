"""10,000 random nested spaces, each observed and acted, against SPEC's rules written once more for single numbers."""

import math
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

from gato_agent.envs.spaces.flatten import Columns, leaves, row, stack
from gato_agent.tokens.space_tokenizer import PAD, PATCH, VALUES, SpaceTokenizer, Vocabulary
from tests.helpers.random_spaces import random_space, random_value

SPACES, CHUNKS, ROWS = 10_000, 25, 2
FAST = 5  # chunks that are not left to the slow tests
ALL = [*range(FAST), *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in range(FAST, CHUNKS))]
MOST = 60  # elements of one leaf that are checked against the rules one by one
VOCABULARY = Vocabulary(300)
HALF_BIN = 1 / 1024


def encode_text(text: str) -> list[int]:
    return list(text.encode())


@pytest.mark.parametrize("chunk", ALL)
def test_random_spaces(chunk):
    for seed in range(chunk, SPACES, CHUNKS):
        rng = np.random.default_rng(seed)
        space = random_space(rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an overflow or an invalid cast is a fault even where the result is right
            try:
                check(rng, space)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {space!r:.2000}") from error


def check(rng: np.random.Generator, space: Space[Any]) -> None:
    tokenizer = SpaceTokenizer(space, space, VOCABULARY, encode_text)
    columns = stack(space, [random_value(rng, space) for _ in range(ROWS)])
    observed, patches, value_groups = tokenizer.encode_observations(columns)
    assert value_groups.size == 0
    check_packed(space, columns, observed, patches)
    acted = tokenizer.encode_actions(columns)
    check_ranges(tokenizer, observed, patches, acted)
    check_rows(tokenizer, columns, observed, patches, acted)
    check_observation(space, columns, observed, patches)
    check_action(space, columns, acted)
    decoded = tokenizer.decode_actions(acted)
    check_decoded(space, columns, acted, decoded)
    check_any_tokens(rng, tokenizer, space)
    check_beyond(rng, tokenizer, space, columns)


def check_packed(space, columns, observed, patches):
    """Several values in a token are the very values that have a token each elsewhere, rows of grids apart."""
    for values_per_token, rows in ((2, True), (7, True), (64, True), (7, False)):
        tokenizer = SpaceTokenizer(
            space, space, VOCABULARY, encode_text, values_per_token=values_per_token, grid_rows=rows
        )
        tokens, same, value_groups = tokenizer.encode_observations(columns)
        assert tokens.shape == (ROWS, tokenizer.n_obs) and value_groups.shape == (
            ROWS,
            tokenizer.n_value_groups,
            values_per_token,
        )
        assert value_groups.dtype == np.int16 and np.array_equal(patches, same)
        first = tokenizer.n_obs - tokenizer.n_value_groups
        assert np.array_equal(tokens[:, :first], observed[:, :first]) and (tokens[:, first:] == VALUES).all()
        for i in range(ROWS):
            values = (observed[i, first:] - VOCABULARY.continuous).tolist()
            assert value_groups[i].tolist() == [
                own + [PAD] * (values_per_token - len(own)) for own in together(space, values, values_per_token, rows)
            ]


def together(space, values, values_per_token, grid_rows):
    """Values of each token: pieces of a grid's rows, then all other values, from the room left in the last on."""
    value_groups, rest = [], []
    for _, leaf in order(space):
        if isinstance(leaf, Text) or image(leaf):
            continue
        count = math.prod(leaf.shape)
        own, values = values[:count], values[count:]
        if grid_rows and isinstance(leaf, MultiDiscrete) and len(leaf.shape) == 2 and min(leaf.shape) > 1:
            wide = leaf.shape[1]
            rows = [own[at : at + wide] for at in range(0, count, wide)]
            value_groups += [row[at : at + values_per_token] for row in rows for at in range(0, wide, values_per_token)]
        else:
            rest += own
    assert not values
    for value in rest:
        if not value_groups or len(value_groups[-1]) == values_per_token:
            value_groups.append([])
        value_groups[-1].append(value)
    return value_groups


def check_ranges(tokenizer, observed, patches, acted):
    assert observed.dtype == acted.dtype == tokenizer.legal.dtype == np.int32 and patches.dtype == np.uint8
    assert observed.shape == (ROWS, tokenizer.n_obs) and acted.shape == (ROWS, tokenizer.n_act)
    assert patches.shape == (ROWS, len(tokenizer.patch_slots), 16, 16, 4)
    assert tokenizer.patch_intervals.shape == (len(tokenizer.patch_slots), 2, 2)
    assert tokenizer.layout.length == tokenizer.n_obs + 1 + tokenizer.n_act
    ids = observed[(observed != PAD) & (observed != PATCH)]
    assert (ids >= 0).all() and (ids < VOCABULARY.separator).all()
    low, high = tokenizer.legal.T
    assert (VOCABULARY.continuous <= low).all() and (low < high).all() and (high <= VOCABULARY.separator).all()
    assert (low <= acted).all() and (acted < high).all()


def check_rows(tokenizer, columns, observed, patches, acted):
    for i in range(ROWS):
        one = {path: column[i : i + 1] for path, column in columns.items()}
        tokens, pieces, _ = tokenizer.encode_observations(one)
        assert np.array_equal(tokens[0], observed[i]) and np.array_equal(pieces[0], patches[i])
        assert np.array_equal(tokenizer.encode_actions(one)[0], acted[i])


# ---- SPEC's rules for one number


def order(space: Space[Any], path: str = "") -> Iterator[tuple[str, Space[Any]]]:
    """Leaves by path: keys in lexicographic order, tuples by index."""
    if isinstance(space, Dict):
        for key in sorted(space.spaces):
            yield from order(space.spaces[key], path + "/" + key.replace("~", "~0").replace("/", "~1"))
    elif isinstance(space, Tuple):
        for index, child in enumerate(space.spaces):
            yield from order(child, f"{path}/{index}")
    else:
        yield path[1:], space


def image(space: Space[Any]) -> bool:
    return isinstance(space, Box) and space.dtype == np.uint8 and space.low.size > 100


def choices(space: Space[Any], at: tuple[int, ...]) -> tuple[int, int] | None:
    """Smallest value and number of values of a discrete element, None for a continuous one."""
    if isinstance(space, Discrete):
        return int(space.start), int(space.n)
    if isinstance(space, MultiDiscrete):
        return int(space.start[at]), int(space.nvec[at])
    if isinstance(space, MultiBinary):
        return 0, 2
    assert isinstance(space, Box)
    if space.dtype.kind == "f" or int(space.high[at]) - int(space.low[at]) >= 1024:
        return None
    return int(space.low[at]), int(space.high[at]) - int(space.low[at]) + 1


class Scale:
    """The coordinate in [-1, 1] of one continuous element, in exact arithmetic, and the rounding that is allowed."""

    def __init__(self, space: Box, at: tuple[int, ...], action: bool) -> None:
        self.dtype, self.integer = space.dtype, space.dtype.kind != "f"
        limit = int(np.iinfo(self.dtype).max) if self.integer else Fraction(float(np.finfo(self.dtype).max))
        self.low = self.number(space.low[at]) if space.bounded_below[at] else None
        self.high = self.number(space.high[at]) if space.bounded_above[at] else None
        if not action:
            narrow = self.low is not None and self.high is not None and self.low >= -1 and self.high <= 1
            self.low, self.high = (-1, 1) if narrow else (None, None)
        elif self.high is None and self.low is not None and self.low > limit - 256:
            self.high = limit
        elif self.low is None and self.high is not None and self.high < 256 - limit:
            self.low = -limit
        self.linear = self.low is not None and self.high is not None
        self.anchor = Fraction(
            0 if self.low is None and self.high is None else self.high if self.low is None else self.low
        )
        self.half = Fraction(self.high - self.low) / 2 if self.linear else Fraction(1)
        self.edge = max(abs(float(self.low)), abs(float(self.high))) if self.linear else abs(float(self.anchor))

    def number(self, x: Any) -> Any:
        return int(x) if self.integer else Fraction(float(x))

    def unit(self, x: Any) -> float:
        offset = self.number(x) - self.anchor
        if self.linear:
            return max(-1.0, min(1.0, float(offset / self.half) - 1)) if self.half else 0.0
        return max(-1.0, min(1.0, math.copysign(math.log(abs(float(offset)) * 100 + 1) / math.log(25601), offset)))

    def value(self, y: float) -> Fraction:
        if self.linear:
            return self.anchor + self.half * (1 + Fraction(y))
        return self.anchor + Fraction(math.copysign((25601 ** abs(y) - 1) / 100, y))

    def check_token(self, bin_: int, x: Any) -> None:
        """The number's coordinate is within half a bin of the bin's centre."""
        slack = 0.0 if self.integer or not self.half else float(Fraction(spacing(np.float64, self.edge)) / self.half)
        assert abs((bin_ + 0.5) / 512 - 1 - self.unit(x)) <= HALF_BIN + 1e-9 + slack or not self.half

    def check_value(self, bin_: int, x: Any) -> None:
        """The number is the bin's centre, rounded to the dtype."""
        exact = self.value((bin_ + 0.5) / 512 - 1)
        rounding = 0.5 if self.integer else 2 * spacing(self.dtype, max(self.edge, abs(float(exact))))
        assert abs(self.number(x) - exact) <= Fraction(rounding) + abs(exact - self.anchor) / 10**11


def spacing(dtype: Any, x: float) -> float:
    """At least the distance of neighbouring numbers around x."""
    return max(float(np.finfo(dtype).eps) * x, float(np.finfo(dtype).smallest_subnormal))


def elements(space: Space[Any]) -> Iterator[tuple[int, tuple[int, ...]]]:
    assert space.shape is not None
    return enumerate(at for _, at in zip(range(MOST), np.ndindex(space.shape), strict=False))


def check_numbers(space: Space[Any], column: np.ndarray, tokens: np.ndarray, action: bool) -> None:
    for i, at in elements(space):
        actual, scale = choices(space, at), None
        for value, token in zip(column[(slice(None), *at)], tokens[:, i].tolist(), strict=True):
            if actual is not None:
                assert token == VOCABULARY.discrete + int(value) - actual[0]
            else:
                scale = scale or Scale(space, at, action)
                scale.check_token(token - VOCABULARY.continuous, value)


def check_observation(space: Space[Any], columns: Columns, tokens: np.ndarray, patches: np.ndarray) -> None:
    actual = list(order(space))
    kinds = [[f for f in actual if isinstance(f[1], Text)], [f for f in actual if image(f[1])]]
    kinds.append([f for f in actual if f not in kinds[0] and f not in kinds[1]])
    at = seen = 0
    for path, leaf in kinds[0]:
        room = min(32, 4 * leaf.max_length)
        for text, part in zip(columns[path], tokens[:, at : at + room].tolist(), strict=True):
            pieces = encode_text(text)
            assert part == pieces + [PAD] * (room - len(pieces))
        at += room
    for path, leaf in kinds[1]:
        count = math.ceil(leaf.shape[0] / 16) * math.ceil(leaf.shape[1] / 16)
        assert (tokens[:, at : at + count] == PATCH).all()
        check_image(columns[path], patches[:, seen : seen + count])
        at, seen = at + count, seen + count
    for path, leaf in kinds[2]:
        size = math.prod(leaf.shape)
        check_numbers(leaf, columns[path], tokens[:, at : at + size], action=False)
        at += size
    assert at == tokens.shape[1] and seen == patches.shape[1]


def check_image(images: np.ndarray, patches: np.ndarray) -> None:
    wide = math.ceil(images.shape[2] / 16)
    for i in range(0, math.ceil(images.shape[1] / 16) * 16, 5):
        for j in range(0, wide * 16, 5):
            shown = patches[:, i // 16 * wide + j // 16, i % 16, j % 16]
            inside = i < images.shape[1] and j < images.shape[2]
            pixel = images[:, i, j].reshape(ROWS, -1) if inside else np.zeros((ROWS, 1))
            channels = [pixel[:, c if pixel.shape[1] > 1 else 0] for c in range(3)]
            last = pixel[:, 3] if pixel.shape[1] == 4 else np.zeros(ROWS)
            assert np.array_equal(shown, np.stack([*channels, last], axis=1))


def blocks(space: Space[Any]) -> Iterator[tuple[str, Any, slice]]:
    at = 0
    for path, leaf in order(space):
        size = leaf.max_length if isinstance(leaf, Text) else math.prod(leaf.shape)
        yield path, leaf, slice(at, at + size)
        at += size


def check_action(space: Space[Any], columns: Columns, tokens: np.ndarray) -> None:
    for path, leaf, place in blocks(space):
        if isinstance(leaf, Text):
            chars = sorted(leaf.character_set)
            for text, part in zip(columns[path], tokens[:, place].tolist(), strict=True):
                index = [chars.index(c) for c in text] + [len(chars)] * (leaf.max_length - len(text))
                assert part == [VOCABULARY.discrete + i for i in index]
        else:
            check_numbers(leaf, columns[path], tokens[:, place], action=True)


def check_decoded(space: Space[Any], columns: Columns, tokens: np.ndarray, decoded: Columns) -> None:
    assert list(decoded) == [leaf.path for leaf in leaves(space)]
    for path, leaf, place in blocks(space):
        assert decoded[path].dtype == columns[path].dtype and decoded[path].shape == columns[path].shape
        if isinstance(leaf, Text):
            assert decoded[path].tolist() == columns[path].tolist()
            continue
        for i, at in elements(leaf):
            pairs = zip(decoded[path][(slice(None), *at)], columns[path][(slice(None), *at)], strict=True)
            for token, (value, original) in zip(tokens[:, place][:, i].tolist(), pairs, strict=True):
                if choices(leaf, at):
                    assert value == original
                else:
                    Scale(leaf, at, action=True).check_value(token - VOCABULARY.continuous, value)


def check_any_tokens(rng: np.random.Generator, tokenizer: SpaceTokenizer, space: Space[Any]) -> None:
    """Whatever legal tokens a model writes, the action is in the space."""
    low, high = tokenizer.legal.T
    tokens = np.stack([low, high - 1, *rng.integers(low, high, size=(4, len(low)))])
    before = tokens.copy()
    decoded = tokenizer.decode_actions(tokens)
    assert np.array_equal(tokens, before)
    for i in range(len(tokens)):
        assert space.contains(row(space, decoded, i))
    assert all(np.isfinite(column).all() for column in decoded.values() if column.dtype.kind == "f")


def check_beyond(rng: np.random.Generator, tokenizer: SpaceTokenizer, space: Space[Any], columns: Columns) -> None:
    """Finite numbers beyond the bounds are coded as the nearest that has a token."""
    beyond, nearest = dict(columns), dict(columns)
    for path, leaf in order(space):
        if isinstance(leaf, Box) and leaf.dtype.kind == "f":
            limit = leaf.dtype.type(np.finfo(leaf.dtype).max)
            beyond[path] = rng.choice(np.array([-limit, limit], dtype=leaf.dtype), size=columns[path].shape)
            nearest[path] = np.clip(beyond[path], leaf.low, leaf.high)
    tokens = tokenizer.encode_actions(beyond)
    assert np.array_equal(tokens, tokenizer.encode_actions(nearest))
    for path, _, place in blocks(space):
        if beyond[path] is not columns[path]:
            assert np.array_equal(tokens[:, place], np.clip(tokens[:, place], *(tokenizer.legal[place] - [0, 1]).T))
    observed, *_ = tokenizer.encode_observations(beyond)
    assert (observed < VOCABULARY.separator).all() and (observed >= PATCH).all()
