"""Decoding of action tokens within a graph: equal to `SpaceTokenizer.decode_actions`, by tables of its values."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Space, Text
from torch import Tensor, nn

from gato_agent.envs.spaces.digits import has_digits, sizes_of
from gato_agent.envs.spaces.flatten import Leaf, leaves
from gato_agent.exporting.observation import surplus
from gato_agent.tokens.space_tokenizer import SpaceTokenizer

END = -1  # after the last character of a string


class ActionTable(nn.Module):
    """Values of all legal tokens of an action.

    Args:
        tokenizer: of the task.
        space: of actions.
    """

    def __init__(self, tokenizer: SpaceTokenizer, space: Space[Any]) -> None:
        super().__init__()
        original = {leaf.path: leaf for leaf in leaves(space)}
        low, high = tokenizer.legal.T.astype(np.int64)
        self._low = torch.from_numpy(low)
        steps = np.arange((high - low).max())
        values = tokenizer.decode_actions(np.minimum(low + steps[:, None], high - 1))
        self._slices = [places for _, places in tokenizer.acted]
        self._parts = nn.ModuleList(_part(original[leaf.path], values[leaf.path]) for leaf, _ in tokenizer.acted)

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Tokens int64 [B, A] -> one array [B, *shape] a leaf; strings are int64 [B, max_length] code points or END."""
        index = ids - self._low
        return [part(index[:, places]) for part, places in zip(self._parts, self._slices, strict=True)]


def _part(leaf: Leaf, values: Any) -> nn.Module:
    if isinstance(leaf.space, Text):
        return Characters(leaf.space)
    return DigitJoin(leaf.space) if has_digits(leaf.space) else ValueTable(leaf.space, values)


class ValueTable(nn.Module):
    """Values [ids, *shape] of the tokens of a leaf."""

    def __init__(self, space: Space[Any], values: Any) -> None:
        super().__init__()
        self._shape = space.shape or ()
        table = torch.from_numpy(np.ascontiguousarray(values.reshape(len(values), -1).T))
        self._dtype = table.dtype
        wide = table.dtype in (torch.uint16, torch.uint32, torch.uint64)  # which few operators take
        self._table = (table.long() if wide else table).flatten()
        self._first = torch.arange(len(table)) * len(values)

    def forward(self, index: Tensor) -> Tensor:
        """Indices int64 [B, elements] -> [B, *shape]."""
        return self._table[index + self._first].to(self._dtype).reshape(len(index), *self._shape)


class DigitJoin(nn.Module):
    """Join of digits into large discrete values, see `envs/spaces/digits.py`."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self._shape, self._dtype = space.shape or (), torch.from_numpy(np.zeros(0, space.dtype)).dtype
        self._values = np.ravel(space.n if hasattr(space, "n") else space.nvec).tolist()
        self._spare = [surplus(n) for n in self._values]
        self._start = torch.from_numpy(np.ravel(space.start).astype(np.int64))

    def forward(self, digits: Tensor) -> Tensor:
        """Digits int64 [B, digits] -> [B, *shape]."""
        joined, at = [], 0
        for n, spare in zip(self._values, self._spare, strict=True):
            sizes, codes = sizes_of(n), n + spare
            weights = torch.tensor([math.prod(sizes[i + 1 :]) for i in range(len(sizes))])
            code = (digits[:, at : at + len(sizes)] * weights).sum(1)
            joined.append(code - (code * spare + codes - 1) // codes if spare else code)  # code * n // codes
            at += len(sizes)
        return (torch.stack(joined, dim=1) + self._start).to(self._dtype).reshape(len(digits), *self._shape)


class Characters(nn.Module):
    """Code points of a string's characters, END from its end on."""

    def __init__(self, space: Text) -> None:
        super().__init__()
        self._points = torch.tensor([*map(ord, sorted(space.character_set)), END])

    def forward(self, index: Tensor) -> Tensor:
        """Indices int64 [B, max_length] -> int64 [B, max_length]."""
        points = self._points[index]
        return points.masked_fill((points == END).long().cumsum(1) > 0, END)
