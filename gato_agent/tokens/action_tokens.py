"""Tokens of actions: those of each leaf by path, every one within a range of legal ids."""

import math
from typing import Any

import numpy as np
from gymnasium.spaces import Space, Text
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Columns, Leaf, leaves, space_error
from gato_agent.tokens.leaf_codecs import Characters, Elements, check_count, elements, place, split, with_digits
from gato_agent.tokens.vocabulary import Vocabulary

MOST_ACTED = 2**16  # elements of one action


class ActionTokens:
    """Codec of the actions of one space.

    Args:
        space: of actions.
        vocabulary: ranges of ids.

    Attributes:
        count: tokens of an action.
        legal: int32 [count, 2], half-open range of ids for each token.
        leaves: leaves of the space, each with the places of its tokens.
        digits: those whose values are decoded as digits, by path.

    Raises:
        SpaceError: a space that has no tokens; the message has a way out.
    """

    def __init__(self, space: Space[Any], vocabulary: Vocabulary) -> None:
        self._offset = vocabulary.text
        own, self.digits = with_digits(leaves(space), action=True)
        self.count, placed = place(own, [_tokens_of(leaf) for leaf in own])
        check_count("an action", self.count, MOST_ACTED)
        strings = [Characters(leaf, at) for leaf, at in placed if isinstance(leaf.space, Text)]
        numbers = elements([(leaf, at) for leaf, at in placed if not isinstance(leaf.space, Text)], action=True)
        self._parts: list[Characters | Elements] = [*strings, *numbers]
        self.leaves = [(leaf, slice(at, at + _tokens_of(leaf))) for leaf, at in placed]
        self.legal = np.zeros((self.count, 2), dtype=np.int32)
        for part in self._parts:
            self.legal[part.slots] = self._offset + part.legal
        if not self.count:
            raise space_error("", f"{space} has no elements: use gymnasium.wrappers.TransformAction(env, "
                                  "lambda _: env.action_space.sample(), Discrete(1))")  # fmt: skip

    def encode(self, columns: Columns) -> NDArray[np.int32]:
        """Encode B actions as tokens int32 [B, n_act], all legal; finite numbers beyond their bounds are clipped.

        Raises:
            SpaceError: a value that the space cannot have.
        """
        columns = split(columns, self.digits)
        rows = len(next(iter(columns.values()), ()))
        tokens = np.empty((rows, self.count), dtype=np.int32)
        for part in self._parts:
            tokens[:, part.places] = self._offset + part.encode(columns, rows)
        return tokens

    def decode(self, tokens: NDArray[np.integer[Any]]) -> Columns:
        """Decode tokens [B, n_act] into actions that the space contains.

        Raises:
            SpaceError: a token outside its legal range.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.ndim != 2 or ids.shape[1] != self.count:
            raise space_error("", f"action tokens of shape {list(ids.shape)} instead of [B, {self.count}]")
        wrong = (ids < self.legal[:, 0]) | (ids >= self.legal[:, 1])
        if wrong.any():
            row, at = np.argwhere(wrong)[0].tolist()
            low, high = self.legal[at].tolist()
            raise space_error("", f"action token {at} is {ids[row, at]}, not one of {low} to {high - 1}", row)
        ids = ids - self._offset
        decoded: Columns = {}
        for part in self._parts:
            decoded |= part.decode(ids[:, part.places])
        for path, digits in self.digits.items():
            decoded[path] = digits.join(decoded[path])
        return {leaf.path: decoded[leaf.path] for leaf, _ in self.leaves}


def _tokens_of(leaf: Leaf) -> int:
    return leaf.space.max_length if isinstance(leaf.space, Text) else math.prod(leaf.shape)
