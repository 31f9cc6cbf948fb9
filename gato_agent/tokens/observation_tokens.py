"""Tokens of observations: text leaves, image leaves, then the elements of all others, alone or in value groups."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Space, Text
from numpy.typing import NDArray

from gato_agent.envs.errors import SpaceError
from gato_agent.envs.spaces.digits import Digits
from gato_agent.envs.spaces.flatten import Columns, Leaf, leaves, space_error
from gato_agent.envs.spaces.views import EVERYTHING, View
from gato_agent.tokens.image_layout import PATCH_SIZE, ImageLayout, image_layout
from gato_agent.tokens.leaf_codecs import (
    Elements,
    as_slice,
    check_count,
    column_of,
    cut_patches,
    elements,
    intervals,
    place,
    side_by_side,
    split,
    with_digits,
)  # fmt: skip
from gato_agent.tokens.vocabulary import PAD, PATCH, VALUES, Vocabulary

MOST_OBSERVED = 2**20  # elements of one observation


class Observed(NamedTuple):
    """B observations as tokens.

    Attributes:
        tokens: int32 [B, n_obs]: ids, PAD, PATCH or VALUES.
        patches: uint8 [B, k, 16, 16, 4] in the order of PATCH.
        value_groups: int16 [B, p, values_per_token] in the order of VALUES: ids from the first bin on, PAD beyond the
            last value of each.
    """

    tokens: NDArray[np.int32]
    patches: NDArray[np.uint8]
    value_groups: NDArray[np.int16]


class ObservationParts(NamedTuple):
    """Leaves of an observation with the places of their tokens, for code that encodes without this tokenizer.

    Attributes:
        view: applied to the observation first.
        digits: by path, leaves of the viewed observation that are split into digits.
        texts: with the number of their tokens.
        images: with their layouts.
        numbers: all other leaves.
        first_value: place of the first token of a number.
        grouped: int64 [values], place of each number in concatenated value groups; empty without value groups.
    """

    view: View
    digits: Mapping[str, Digits]
    texts: list[tuple[Leaf, int]]
    images: list[tuple[Leaf, ImageLayout]]
    numbers: list[Elements]
    first_value: int
    grouped: NDArray[np.int64]


class ObservationTokens:
    """Encoder of the observations of one space.

    Args:
        space: of observations.
        vocabulary: ranges of ids.
        text: string -> piece ids; without it, an observation with text cannot be encoded.
        text_pieces: tokens of an observed text, which is padded to that length.
        view: parts of the observation to encode; None for all.
        values_per_token: values of an observation that share one token; 1 for a token each.
        grid_rows: True if each row of a grid begins a token, where values share tokens.

    Attributes:
        count: tokens of an observation.
        n_value_groups: number of them that are value groups.
        widest: largest number of values in a value group.
        patch_slots: int64 [k], positions of image patches within the observation.
        patch_intervals: int32 [k, 2, 2], (row | column, from | to) in 128ths of the padded image.

    Raises:
        SpaceError: a space that has no tokens; the message has a way out.
    """

    def __init__(
        self, space: Space[Any], vocabulary: Vocabulary, text: Callable[[str], Sequence[int]] | None, text_pieces: int,
        view: View | None, values_per_token: int, grid_rows: bool,
    ) -> None:  # fmt: skip
        self._view = view or EVERYTHING
        space = self._view.space(space)
        self._offset, self._pieces = vocabulary.text, lru_cache(maxsize=4096)(text) if text else None
        self._values_per_token = values_per_token
        tokenised, self._digits = with_digits(leaves(space), action=False)
        own = sorted(tokenised, key=_rank)
        self.count, placed = place(own, [_tokens_of(leaf, text_pieces) for leaf in own])
        check_count("an observation", self.count, MOST_OBSERVED)
        self._texts, pictures, tensors = ([p for p in placed if _rank(p[0]) == rank] for rank in range(3))
        self._text_room = {leaf.path: _tokens_of(leaf, text_pieces) for leaf, _ in self._texts}
        self._place_images(pictures)
        self._place_values(tensors, grid_rows)
        if not self.count:
            raise space_error("", f"{space} has no elements: use gymnasium.wrappers.TransformObservation(env, "
                                  "lambda _: 0, Discrete(1))")  # fmt: skip

    def _place_images(self, pictures: list[tuple[Leaf, int]]) -> None:
        self._images = [(leaf, layout) for leaf, _ in pictures if (layout := image_layout(leaf.space))]
        images = [np.tile(intervals(each.height, each.width), (each.sets, 1, 1)) for _, each in self._images]
        slots = [at + np.arange(len(image)) for (_, at), image in zip(pictures, images, strict=True)]
        self.patch_slots = np.concatenate([np.zeros(0, np.int64), *slots])
        self.patch_intervals = np.concatenate([np.zeros((0, 2, 2), np.int32), *images])

    def _place_values(self, tensors: list[tuple[Leaf, int]], grid_rows: bool) -> None:
        self._tensors, size = elements(tensors, action=False), self._values_per_token
        self._values = self.count - sum(math.prod(leaf.shape) for leaf, _ in tensors)  # where the values begin
        self._grouped = side_by_side([leaf for leaf, _ in tensors] if size > 1 else [], size, grid_rows)
        self.n_value_groups = -(-(1 + int(self._grouped.max(initial=-1))) // size)
        self.widest = 1 + int((self._grouped % size).max(initial=-1))
        self._value_places = list[slice | NDArray[np.int64]]()  # of each part, in the concatenated value groups
        if size > 1:
            self.count = self._values + self.n_value_groups
            self._value_places = [as_slice(self._grouped[part.slots - self._values]) for part in self._tensors]

    @property
    def parts(self) -> ObservationParts:
        """Leaves with the places of their tokens."""
        texts = [(leaf, self._text_room[leaf.path]) for leaf, _ in self._texts]
        first, grouped = self._values, self._grouped
        return ObservationParts(self._view, self._digits, texts, self._images, self._tensors, first, grouped)

    def encode(self, columns: Columns) -> Observed:
        """Encode B observations.

        Args:
            columns: leaf path -> array [B, ...].

        Raises:
            SpaceError: a value that the space cannot have; names the leaf, the element and the row.
        """
        columns = split(self._view.columns(columns), self._digits)
        rows = len(next(iter(columns.values()), ()))
        tokens = np.full((rows, self.count), PAD, dtype=np.int32)
        for leaf, at in self._texts:
            for row, text in enumerate(column_of(leaf, columns, rows)):
                pieces = self._encode_text(leaf.path, text, row)
                tokens[row, at : at + len(pieces)] = pieces
        patches = np.zeros((rows, 0, PATCH_SIZE, PATCH_SIZE, 4), np.uint8)
        if self._images:
            tokens[:, self.patch_slots] = PATCH
            arranged = [layout.arrange(column_of(leaf, columns, rows)) for leaf, layout in self._images]
            patches = np.concatenate([cut_patches(part) for each in arranged for part in each.swapaxes(0, 1)], axis=1)
        value_groups = np.full((rows, self.n_value_groups * self._values_per_token), PAD, dtype=np.int16)
        if self.n_value_groups:
            tokens[:, self._values :] = VALUES
            for part, places in zip(self._tensors, self._value_places, strict=True):
                value_groups[:, places] = part.encode(columns, rows)
        else:
            for part in self._tensors:
                tokens[:, part.places] = self._offset + part.encode(columns, rows)
        return Observed(tokens, patches, value_groups.reshape(rows, self.n_value_groups, self._values_per_token))

    def _encode_text(self, path: str, text: str, row: int) -> Sequence[int]:
        if self._pieces is None:
            raise space_error(path, "is text, and this tokenizer was made without a text tokenizer: pass `text`", row)
        try:
            pieces, room = self._pieces(text), self._text_room[path]
        except SpaceError as error:
            raise space_error(path, str(error), row) from None
        if len(pieces) > room:
            message = (
                f"{len(pieces)} text pieces where {room} have room: train with --text-pieces {len(pieces)} or more"
            )
            raise space_error(path, message, row)
        if pieces and not 0 <= min(pieces) <= max(pieces) < self._offset:
            message = f"text piece {max(pieces)} of a vocabulary of {self._offset}: use the text tokenizer of this size"
            raise space_error(path, message, row)
        return pieces


def _rank(leaf: Leaf) -> int:
    """Order within an observation: text, images, tensors."""
    return 0 if isinstance(leaf.space, Text) else 1 if image_layout(leaf.space) else 2


def _tokens_of(leaf: Leaf, text_pieces: int) -> int:
    if isinstance(leaf.space, Text):
        return min(text_pieces, 4 * leaf.space.max_length)  # a piece is at least a byte, a character at most four
    layout = image_layout(leaf.space)
    return layout.sets * len(intervals(layout.height, layout.width)) if layout else math.prod(leaf.shape)
