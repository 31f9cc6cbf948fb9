"""Codecs of the leaves of a space: numbers, strings of actions, and images, as blocks of tokens.

Ids here count from the end of the text pieces: 1,024 bins, then 1,024 discrete values.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from gymnasium.spaces import Text
from numpy.typing import NDArray

from gato_agent.envs.spaces.digits import Digits, has_digits
from gato_agent.envs.spaces.flatten import Columns, Leaf, as_column, space_error
from gato_agent.envs.spaces.values import LeafValidator
from gato_agent.tokens.image_layout import PATCH_SIZE
from gato_agent.tokens.mu_law import BINS, Floats, Rules, compand, expand, rules_of

POSITIONS = 128

Tokens = NDArray[np.int64]


def column_of(leaf: Leaf, columns: Columns, rows: int) -> NDArray[Any]:
    """The column of a leaf, checked; raises SpaceError where it is missing or has another number of rows."""
    if leaf.path not in columns:
        raise space_error(leaf.path, "missing")
    column = as_column(leaf, columns[leaf.path])
    if len(column) != rows:
        raise space_error(leaf.path, f"{len(column)} rows where other leaves have {rows}")
    return column


class Elements:
    """Codec of all elements of some leaves, one token each, in a few array operations.

    Args:
        placed: leaves, all integer or all floating, with the place of their first token.
        action: True for leaves of actions, which are coded within their bounds; False for observations.

    Attributes:
        slots: int64 [elements], the place of each element's token.
        places: the same as an index that is as fast as it can be.
        legal: int64 [elements, 2], half-open range of ids.
    """

    def __init__(self, placed: Sequence[tuple[Leaf, int]], action: bool) -> None:
        self.leaves, self._action = [leaf for leaf, _ in placed], action
        self._sizes = [math.prod(leaf.shape) for leaf in self.leaves]
        self._starts = list(accumulate(self._sizes, initial=0))
        self._parts = [
            (leaf.path, slice(*own), leaf.shape, leaf.dtype)
            for leaf, own in zip(self.leaves, pairwise(self._starts), strict=True)
        ]
        self.slots = np.concatenate([at + np.arange(n) for (_, at), n in zip(placed, self._sizes, strict=True)])
        self.places = as_slice(self.slots)
        rules = [rules_of(leaf, action) for leaf in self.leaves]
        self.rules = Rules(*(np.concatenate(parts, axis=-1) for parts in zip(*rules, strict=True)))
        self.kind = np.dtype(np.float64 if self.leaves[0].dtype.kind == "f" else np.uint64)
        self.discrete = self.rules.choices > 0
        self.first = np.where(self.discrete, BINS, 0)  # the id of bin 0, or of the smallest discrete value
        last = np.where(self.discrete, self.rules.choices.astype(np.int64) - 1, self.rules.bins[1])
        self.legal = np.stack((self.first + self.rules.bins[0], self.first + last + 1), axis=1)
        self.any_companded, self.all_discrete = bool(self.rules.companded.any()), bool(self.discrete.all())
        self._any_single = bool((self.rules.half <= 0).any())  # bounds that hold one value

    def encode(self, columns: Columns, rows: int) -> Tokens:
        """Tokens [B, elements] of columns that each hold B rows.

        Raises:
            SpaceError: a number that is not finite, or not one of the discrete values.
        """
        flat = [
            column_of(leaf, columns, rows).reshape(rows, size)
            for leaf, size in zip(self.leaves, self._sizes, strict=True)
        ]
        x = np.concatenate([part.astype(self.kind) for part in flat], axis=1)
        if self.kind == np.float64:
            self._refuse(~np.isfinite(x), flat)
            return self._bins(x.clip(self.rules.low, self.rules.high) - self.rules.center)
        x += self.rules.bias
        offset = x.clip(self.rules.low, self.rules.high) - self.rules.base
        self._refuse(self.discrete & (offset >= self.rules.choices), flat)
        values = offset.view(np.int64)
        if not self.all_discrete:
            values = np.where(self.discrete, values, self._bins(values - self.rules.center))
        return self.first + values

    def _bins(self, offset: Floats) -> Tokens:
        if self._any_single:
            y = np.divide(offset, self.rules.half, out=np.zeros_like(offset), where=self.rules.half > 0)
        else:
            y = offset / self.rules.half
        if self.any_companded:
            y = np.where(self.rules.companded, compand(y), y)
        return np.floor((y + 1) * (BINS / 2)).astype(np.int64).clip(*self.rules.bins)

    def decode(self, tokens: Tokens) -> Columns:
        """Columns of legal tokens [B, elements]: the smallest value plus the index, or the middle of the bin."""
        index = tokens - self.first
        if self.kind == np.float64:
            x: NDArray[Any] = self._middles(index)
        else:
            offset = index if self.all_discrete else np.where(self.discrete, index, self._rounded(index))
            x = self.rules.base + offset.view(np.uint64) - self.rules.bias
        return {path: x[:, own].reshape(len(x), *shape).astype(dtype) for path, own, shape, dtype in self._parts}

    def _middles(self, index: Tokens) -> Floats:
        v: NDArray[Any] = (index + 0.5) / (BINS / 2) - 1
        if self.any_companded:
            v = np.where(self.rules.companded, expand(v), v)
        return np.asarray(self.rules.center + self.rules.half * v, np.float64)

    def _rounded(self, index: Tokens) -> Tokens:
        return np.rint(self._middles(np.where(self.discrete, 0, index))).astype(np.int64)

    def _refuse(self, wrong: NDArray[np.bool_], flat: list[NDArray[Any]]) -> None:
        """Raise SpaceError for the first wrong element of [B, elements], if there is one."""
        if not wrong.any():
            return
        row, at = np.argwhere(wrong)[0].tolist()
        part = int(np.searchsorted(self._starts, at, side="right")) - 1
        leaf = self.leaves[part]
        index = np.unravel_index(at - self._starts[part], leaf.shape)
        column = flat[part].reshape(-1, *leaf.shape)
        LeafValidator(leaf, self._action).refuse(column, [row, *map(int, index)])


def side_by_side(leaves: list[Leaf], values_per_token: int, grid_rows: bool) -> NDArray[np.int64]:
    """Position of each value of some leaves in the concatenated value groups.

    Each row of a grid begins its own value group, before all other leaves. All rows are then read by the same weights,
    and attention can select among them.
    """
    places: dict[int, NDArray[np.int64]] = {}
    end = 0
    apart = [grid_rows and leaf.kind.is_grid(leaf.space) for leaf in leaves]
    for number in sorted(range(len(leaves)), key=lambda number: not apart[number]):
        shape = leaves[number].shape
        at = end + np.arange(math.prod(shape))
        if apart[number]:
            row, column = np.indices(shape).reshape(2, -1)
            at = values_per_token * (-(-end // values_per_token) + row * -(-shape[1] // values_per_token)) + column
        places[number], end = at, 1 + int(at.max(initial=end - 1))
    return np.concatenate([np.zeros(0, np.int64), *(places[number] for number in range(len(leaves)))])


class Characters:
    """Codec of a Text leaf of an action: one discrete token per character of the sorted charset, then the end index.

    Attributes:
        slots: int64 [max_length], the places of its tokens.
        places: the same as an index that is as fast as it can be.
        legal: int64 [max_length, 2], half-open range of ids; the end is not legal before min_length.
    """

    def __init__(self, leaf: Leaf, at: int) -> None:
        assert isinstance(leaf.space, Text)
        self.leaf, self.space = leaf, leaf.space
        self.charset = sorted(leaf.space.character_set)
        self.codes = np.array([ord(c) for c in self.charset], dtype=np.int64)
        self.end = len(self.charset)
        if self.end >= BINS or (self.end == 0 and self.space.min_length):
            raise space_error(leaf.path, f"a charset of {self.end} characters, and 1 to {BINS - 1} can be acted")
        place = np.arange(self.space.max_length)
        self.slots = at + place
        self.places = as_slice(self.slots)
        may_end = place >= self.space.min_length
        self.legal = BINS + np.stack((np.zeros_like(place), self.end + may_end), axis=1)

    def encode(self, columns: Columns, rows: int) -> Tokens:
        """Tokens [B, max_length]; raises SpaceError where a string is not in the space."""
        index = np.full((rows, self.space.max_length), self.end)
        for row, text in enumerate(column_of(self.leaf, columns, rows)):
            if not self.space.contains(text):
                raise space_error(self.leaf.path, f"{text!a:.80} is not in {self.space!a:.200}", row)
            index[row, : len(text)] = np.searchsorted(self.codes, [ord(c) for c in text])
        return BINS + index

    def decode(self, tokens: Tokens) -> Columns:
        """Strings of legal tokens [B, max_length], each up to its first end index."""
        column = np.empty(len(tokens), dtype=object)
        for row, index in enumerate((tokens - BINS).tolist()):
            stop = index.index(self.end) if self.end in index else len(index)
            column[row] = "".join([self.charset[i] for i in index[:stop]])
        return {self.leaf.path: column}


def cut_patches(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut [B, h, w(, c)] into [B, k, 16, 16, 4] in raster order: zeros pad the sides, gray fills R, G and B."""
    images = images.reshape(*images.shape[:3], -1)
    count, height, width, channels = images.shape
    rows, columns = -(-height // PATCH_SIZE), -(-width // PATCH_SIZE)
    canvas = np.zeros((count, rows * PATCH_SIZE, columns * PATCH_SIZE, 4), dtype=np.uint8)
    canvas[:, :height, :width, : 3 if channels == 1 else channels] = images
    grid = canvas.reshape(count, rows, PATCH_SIZE, columns, PATCH_SIZE, 4)
    return grid.swapaxes(2, 3).reshape(count, rows * columns, PATCH_SIZE, PATCH_SIZE, 4)


def distinct(patches: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Distinct patches, and for each of [k, ...] its index among them."""
    flat = np.ascontiguousarray(patches).reshape(len(patches), -1)
    _, first, place = np.unique(flat.view(np.dtype((np.void, flat.shape[1]))), return_index=True, return_inverse=True)
    return patches[first], place.ravel()


def intervals(height: int, width: int) -> NDArray[np.int32]:
    """Place of each patch, [k, (row, column), (from, to)], in 128ths of the padded image."""
    rows, columns = (
        np.rint(np.linspace(0, POSITIONS, -(-side // PATCH_SIZE) + 1)).astype(np.int32) for side in (height, width)
    )
    row, column = np.indices((len(rows) - 1, len(columns) - 1)).reshape(2, -1)
    return np.stack((rows[row], rows[row + 1], columns[column], columns[column + 1]), axis=1).reshape(-1, 2, 2)


def with_digits(own: list[Leaf], action: bool) -> tuple[list[Leaf], dict[str, Digits]]:
    """The leaves as they are tokenised, and by path those that are split into digits for that."""
    digits = {leaf.path: Digits(leaf, action) for leaf in own if has_digits(leaf.space)}
    return [digits[leaf.path].leaf if leaf.path in digits else leaf for leaf in own], digits


def split(columns: Columns, digits: Mapping[str, Digits]) -> Columns:
    """Columns with large Discrete values split into digits; raises SpaceError for a value outside its space."""
    if not digits:
        return columns
    return {path: digits[path].split(column) if path in digits else column for path, column in columns.items()}


def as_slice(index: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Indices as a slice where they are consecutive, which NumPy reads and writes several times faster."""
    consecutive = index.size and (index == index[0] + np.arange(index.size)).all()
    return slice(int(index[0]), int(index[-1]) + 1) if consecutive else index


def place(own: list[Leaf], sizes: list[int]) -> tuple[int, list[tuple[Leaf, int]]]:
    """Number of tokens, and each leaf with the place of its first."""
    *starts, total = accumulate(sizes, initial=0)
    return total, list(zip(own, starts, strict=True))


def check_count(what: str, count: int, most: int) -> None:
    """Raise SpaceError for too many elements, before any array of them is allocated."""
    if count > most:
        raise space_error("", f"{what} of {count:,} elements, and {most:,} can be held: wrap the environment so that "
                              "it has fewer")  # fmt: skip


def elements(placed: list[tuple[Leaf, int]], action: bool) -> list[Elements]:
    """One group for the integer leaves and one for the floating ones, where there are any."""
    groups = [[p for p in placed if (p[0].dtype.kind == "f") == floating] for floating in (False, True)]
    return [Elements(group, action) for group in groups if group]
