"""Tokenizer of any Gymnasium space: observations and actions <-> tokens (Gato paper, section 2.1 and appendix B).

    vocabulary     text pieces | 1,024 continuous bins | 1,024 discrete values | separator
    one timestep   text leaves, image leaves, then all other leaves, each by path | separator | action leaves by path
    grouped        those other leaves have no tokens of their own: up to `values_per_token` values share one; each row
                   of a grid, which is a two-dimensional MultiDiscrete, begins a token, the other values follow the last

`TimestepLayout` has their places in a timestep.

For example, as actions and with 512 text pieces:

    Box(-1, 1, (2,))       [0.5, -1.0]  ->  ids 512 + 768, 512 + 0   ->  the middles of these bins
    Discrete(3, start=1)   2            ->  id 512 + 1024 + 1        ->  2

Discrete values beyond 1,024 are split into digits, see `envs/digits.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Space, Text
from numpy.typing import NDArray

from gato_agent.envs.digits import Digits, has_digits
from gato_agent.envs.errors import SpaceError
from gato_agent.envs.spaces.flatten import Columns, Leaf, leaves, space_error
from gato_agent.envs.spaces.views import EVERYTHING, View
from gato_agent.tokens.image_layout import PATCH_SIZE, image_layout
from gato_agent.tokens.leaf_codecs import (
    POSITIONS,
    Characters,
    Elements,
    column_of,
    cut_patches,
    intervals,
    is_floating,
    shape_of,
    side_by_side,
)  # fmt: skip
from gato_agent.tokens.mu_law import BINS
from gato_agent.tokens.timestep_layout import TimestepLayout

__all__ = ["BINS", "PAD", "PATCH", "PATCH_SIZE", "POSITIONS", "VALUES", "Observed", "SpaceTokenizer", "Vocabulary"]

MOST_OBSERVED, MOST_ACTED = 2**20, 2**16  # elements of one observation and of one action
PAD, PATCH, VALUES = -1, -2, -3  # tokens without an id: padding, an image patch, a value group


class Vocabulary(NamedTuple):
    """Ranges of ids: text pieces, bins, discrete values, separator.

    Attributes:
        text: number of text pieces, which have the first ids.
    """

    text: int

    @property
    def continuous(self) -> int:
        """First id of the bins."""
        return self.text

    @property
    def discrete(self) -> int:
        """First id of the discrete values."""
        return self.text + BINS

    @property
    def separator(self) -> int:
        """Id between observation and action."""
        return self.text + 2 * BINS

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.text + 2 * BINS + 1

    def ordered(self, first: int) -> bool:
        """True if ids from `first` on are bins, whose order is that of their values."""
        return self.continuous <= first < self.discrete


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


class SpaceTokenizer:
    """Tokenizer of one observation space and one action space.

    Args:
        observation_space: any nesting of Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple.
        action_space: likewise.
        vocabulary: ranges of ids.
        text: string -> piece ids; without it, an observation with text cannot be encoded.
        text_pieces: tokens of an observed text, which is padded to that length.
        view: parts of the observation to encode; None for all.
        values_per_token: values of an observation that share one token; 1 for a token each.
        action_decoder: True if an action decoder predicts the action, which is then not in the stream.
        past_actions: True if actions in the stream stay visible to later timesteps.
        grid_rows: True if each row of a grid begins a token, where values share tokens.

    Attributes:
        values_per_token: as given.
        n_obs: tokens of an observation.
        n_value_groups: number of them that are value groups.
        widest: largest number of values in a value group.
        layout: places of tokens in a timestep.
        n_act: tokens of an action.
        patch_slots: int64 [k], positions of image patches within the observation.
        patch_intervals: int32 [k, 2, 2], (row | column, from | to) in 128ths of the padded image.
        legal: int32 [n_act, 2], half-open range of ids for each action token.
        acted: leaves of the action space, each with the places of its tokens in an action.
        acted_digits: those whose values are decoded as digits, by path.

    Raises:
        SpaceError: a space that has no tokens; the message has a way out.
    """

    def __init__(
        self, observation_space: Space[Any], action_space: Space[Any], vocabulary: Vocabulary,
        text: Callable[[str], Sequence[int]] | None = None, text_pieces: int = 32, view: View | None = None,
        values_per_token: int = 1, action_decoder: bool = False, grid_rows: bool = True, past_actions: bool = False,
    ) -> None:  # fmt: skip
        self._view = view or EVERYTHING
        observation_space = self._view.space(observation_space)
        self._offset, self._pieces = vocabulary.text, lru_cache(maxsize=4096)(text) if text else None
        tokenised, self._observed_digits = _with_digits(leaves(observation_space), action=False)
        observed = sorted(tokenised, key=lambda leaf: _rank(leaf.space))
        self.n_obs, placed = _place(observed, [_tokens_observed(leaf, text_pieces) for leaf in observed])
        _check_count("an observation", self.n_obs, MOST_OBSERVED)
        self._texts, pictures, tensors = ([p for p in placed if _rank(p[0].space) == rank] for rank in range(3))
        self._tensors = _elements(tensors, action=False)
        values = sum(math.prod(shape_of(leaf)) for leaf, _ in tensors)
        self._values, self.values_per_token = self.n_obs - values, values_per_token  # where the values begin
        grouped_leaves = [leaf for leaf, _ in tensors] if values_per_token > 1 else []
        self._grouped = side_by_side(grouped_leaves, values_per_token, grid_rows)
        self.n_value_groups = -(-(1 + int(self._grouped.max(initial=-1))) // values_per_token)
        self.widest = 1 + int((self._grouped % values_per_token).max(initial=-1))
        self.n_obs = self._values + self.n_value_groups if values_per_token > 1 else self.n_obs
        self._images = [(leaf, layout) for leaf, _ in pictures if (layout := image_layout(leaf.space))]
        images = [np.tile(intervals(each.height, each.width), (each.sets, 1, 1)) for _, each in self._images]
        slots = [at + np.arange(len(image)) for (_, at), image in zip(pictures, images, strict=True)]
        self.patch_slots = np.concatenate([np.zeros(0, np.int64), *slots])
        self.patch_intervals = np.concatenate([np.zeros((0, 2, 2), np.int32), *images])
        self._text_room = {leaf.path: _tokens_observed(leaf, text_pieces) for leaf, _ in self._texts}

        self._separator = vocabulary.separator
        acted, self.acted_digits = _with_digits(leaves(action_space), action=True)
        self.n_act, placed = _place(acted, [_tokens_acted(leaf) for leaf in acted])
        _check_count("an action", self.n_act, MOST_ACTED)
        strings = [Characters(leaf, at) for leaf, at in placed if isinstance(leaf.space, Text)]
        numbers = _elements([p for p in placed if not isinstance(p[0].space, Text)], action=True)
        self._actions: list[Characters | Elements] = [*strings, *numbers]
        self.acted = [(leaf, slice(at, at + _tokens_acted(leaf))) for leaf, at in placed]
        self.legal = np.zeros((self.n_act, 2), dtype=np.int32)
        for part in self._actions:
            self.legal[part.slots] = self._offset + part.legal
        self.layout = TimestepLayout(self.n_obs, self.n_act, action_decoder, past_actions, self.n_value_groups)
        wrappers = ("TransformObservation(env, lambda _: 0", "TransformAction(env, lambda _: env.action_space.sample()")
        for space, count, way_out in zip(
            (observation_space, action_space), (self.n_obs, self.n_act), wrappers, strict=True
        ):
            if not count:
                raise space_error("", f"{space} has no elements: use gymnasium.wrappers.{way_out}, Discrete(1))")

    def timesteps(self, observed: NDArray[np.int32], acted: NDArray[np.int32]) -> NDArray[np.int32]:
        """Tokens of observations [B, n_obs] and actions [B, n_act] -> of timesteps [B, layout.length]."""
        separators = np.full((len(observed), self.layout.n_separators), self._separator, np.int32)
        return np.concatenate((observed, separators, acted), axis=1)[:, : self.layout.length]

    def encode_observations(self, columns: Columns) -> Observed:
        """Encode B observations.

        Args:
            columns: leaf path -> array [B, ...].

        Raises:
            SpaceError: a value that the space cannot have; names the leaf, the element and the row.
        """
        columns = _split(self._view.columns(columns), self._observed_digits)
        rows = len(next(iter(columns.values()), ()))
        tokens = np.full((rows, self.n_obs), PAD, dtype=np.int32)
        for leaf, at in self._texts:
            for row, text in enumerate(column_of(leaf, columns, rows)):
                pieces = self._encode_text(leaf.path, text, row)
                tokens[row, at : at + len(pieces)] = pieces
        tokens[:, self.patch_slots] = PATCH
        patches = [
            cut_patches(part)
            for leaf, layout in self._images
            for part in layout.arrange(column_of(leaf, columns, rows)).swapaxes(0, 1)
        ]
        value_groups = np.full((rows, self.n_value_groups * self.values_per_token), PAD, dtype=np.int16)
        if self.n_value_groups:
            tokens[:, self._values :] = VALUES
        for part in self._tensors:
            if self.n_value_groups:
                value_groups[:, self._grouped[part.slots - self._values]] = part.encode(columns, rows)
            else:
                tokens[:, part.slots] = self._offset + part.encode(columns, rows)
        none = np.zeros((rows, 0, PATCH_SIZE, PATCH_SIZE, 4), np.uint8)
        return Observed(
            tokens,
            np.concatenate([none, *patches], axis=1),
            value_groups.reshape(rows, self.n_value_groups, self.values_per_token),
        )

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

    def encode_actions(self, columns: Columns) -> NDArray[np.int32]:
        """Encode B actions as tokens int32 [B, n_act], all legal; finite numbers beyond their bounds are clipped.

        Raises:
            SpaceError: as `encode_observations`.
        """
        columns = _split(columns, self.acted_digits)
        rows = len(next(iter(columns.values()), ()))
        tokens = np.empty((rows, self.n_act), dtype=np.int32)
        for part in self._actions:
            tokens[:, part.slots] = self._offset + part.encode(columns, rows)
        return tokens

    def decode_actions(self, tokens: NDArray[np.integer[Any]]) -> Columns:
        """Decode tokens [B, n_act] into actions that the space contains.

        Raises:
            SpaceError: a token outside its legal range.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.ndim != 2 or ids.shape[1] != self.n_act:
            raise space_error("", f"action tokens of shape {list(ids.shape)} instead of [B, {self.n_act}]")
        wrong = (ids < self.legal[:, 0]) | (ids >= self.legal[:, 1])
        if wrong.any():
            row, at = np.argwhere(wrong)[0].tolist()
            low, high = self.legal[at].tolist()
            raise space_error("", f"action token {at} is {ids[row, at]}, not one of {low} to {high - 1}", row)
        ids = ids - self._offset
        decoded: Columns = {}
        for part in self._actions:
            decoded |= part.decode(ids[:, part.slots])
        for path, digits in self.acted_digits.items():
            decoded[path] = digits.join(decoded[path])
        return {leaf.path: decoded[leaf.path] for leaf, _ in self.acted}


def _with_digits(own: list[Leaf], action: bool) -> tuple[list[Leaf], dict[str, Digits]]:
    """The leaves as they are tokenised, and by path those that are split into digits for that."""
    digits = {leaf.path: Digits(leaf, action) for leaf in own if has_digits(leaf.space)}
    return [digits[leaf.path].leaf if leaf.path in digits else leaf for leaf in own], digits


def _split(columns: Columns, digits: Mapping[str, Digits]) -> Columns:
    """Columns with large Discrete values split into digits; raises SpaceError for a value outside its space."""
    if not digits:
        return columns
    return {path: digits[path].split(column) if path in digits else column for path, column in columns.items()}


def _rank(space: Space[Any]) -> int:
    """Order within an observation: text, images, tensors."""
    return 0 if isinstance(space, Text) else 1 if image_layout(space) else 2


def _tokens_observed(leaf: Leaf, text_pieces: int) -> int:
    if isinstance(leaf.space, Text):
        return min(text_pieces, 4 * leaf.space.max_length)  # a piece is at least a byte, a character at most four
    layout = image_layout(leaf.space)
    return layout.sets * len(intervals(layout.height, layout.width)) if layout else math.prod(shape_of(leaf))


def _tokens_acted(leaf: Leaf) -> int:
    return leaf.space.max_length if isinstance(leaf.space, Text) else math.prod(shape_of(leaf))


def _place(own: list[Leaf], sizes: list[int]) -> tuple[int, list[tuple[Leaf, int]]]:
    """Number of tokens, and each leaf with the place of its first."""
    *starts, total = accumulate(sizes, initial=0)
    return total, list(zip(own, starts, strict=True))


def _check_count(what: str, count: int, most: int) -> None:
    """Raise SpaceError for too many elements, before any array of them is allocated."""
    if count > most:
        raise space_error("", f"{what} of {count:,} elements, and {most:,} can be held: wrap the environment so that "
                              "it has fewer")  # fmt: skip


def _elements(placed: list[tuple[Leaf, int]], action: bool) -> list[Elements]:
    """One group for the integer leaves and one for the floating ones, where there are any."""
    groups = [[p for p in placed if is_floating(p[0]) == floating] for floating in (False, True)]
    return [Elements(group, action) for group in groups if group]
