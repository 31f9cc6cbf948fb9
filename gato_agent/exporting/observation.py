"""Encoding of raw observations within a graph: equal to `SpaceTokenizer.encode_observations`, which also refuses."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Space
from numpy.typing import NDArray
from torch import Tensor, nn

from gato_agent.envs.errors import UsageError
from gato_agent.envs.spaces.digits import sizes_of
from gato_agent.envs.spaces.flatten import leaves
from gato_agent.exporting.views import TensorView, padded
from gato_agent.tokens.image_layout import PATCH_SIZE, ImageLayout
from gato_agent.tokens.leaf_codecs import Elements
from gato_agent.tokens.mu_law import BINS, MU, M
from gato_agent.tokens.space_tokenizer import PAD, SpaceTokenizer

WIDEST = 2**63  # products of integers below it are exact


class Encoded(NamedTuple):
    """B observations as parts of a token stream, in their order.

    Attributes:
        texts: int64 [B, tokens of texts], piece ids or PAD.
        patches: integer [B, k, 16, 16, 4].
        values: int64: ids of the numbers [B, n], or value groups [B, p, values_per_token] with ids from the first bin
            on or PAD.
        valid: bool [B], False where a number is not finite or not in its space.
    """

    texts: Tensor
    patches: Tensor
    values: Tensor
    valid: Tensor


class ObservationEncoder(nn.Module):
    """Encoder of raw observations.

    Args:
        tokenizer: of the task.
        space: of observations before the view.
        first_bin: id of the first bin.
    """

    def __init__(self, tokenizer: SpaceTokenizer, space: Space[Any], first_bin: int) -> None:
        super().__init__()
        parts = tokenizer.parts
        self._texts, self._images, self._grouped = parts.texts, parts.images, tokenizer.n_value_groups > 0
        self._view, self._values_per_token = TensorView(parts.view, space), tokenizer.values_per_token
        viewed = {leaf.path: leaf.space for leaf in leaves(parts.view.space(space))}
        self._digits = {path: DigitSplit(viewed[path]) for path in parts.digits}
        self._numbers = nn.ModuleList(map(Numbers, parts.numbers))
        slots = np.concatenate([np.zeros(0, np.int64), *(each.slots for each in parts.numbers)]) - parts.first_value
        if self._grouped:  # from each place in the groups to its number, or to the PAD after all numbers
            places = np.full(tokenizer.n_value_groups * tokenizer.values_per_token, len(slots))
            places[parts.grouped[slots]] = np.arange(len(slots))
        else:
            places = np.argsort(slots)
        self._first = 0 if self._grouped else first_bin
        self._places = torch.from_numpy(places)

    def forward(self, columns: dict[str, Tensor]) -> Encoded:
        """Encode columns [B, ...] by path; those of texts are piece ids [B, tokens]."""
        rows = len(next(iter(columns.values())))
        seen, valid = self._view(columns)
        for path, digits in self._digits.items():
            seen[path], fits = digits(seen[path])
            valid.append(fits)
        texts = [seen[leaf.path].long() for leaf, _ in self._texts]
        patches = [cut(layout, seen[leaf.path]) for leaf, layout in self._images]
        values = [part(seen) for part in self._numbers]
        valid += [fits for _, fits in values]
        pad = torch.full((rows, 1), PAD - self._first)
        ids = torch.cat([*(numbers for numbers, _ in values), pad], dim=1)[:, self._places] + self._first
        if self._grouped:
            ids = ids.reshape(rows, -1, self._values_per_token)
        none = torch.zeros(rows, 0, dtype=torch.int64)
        return Encoded(
            torch.cat([none, *texts], dim=1),
            torch.cat(patches, dim=1) if patches else none,
            ids,
            torch.stack([torch.ones(rows, dtype=torch.bool), *valid]).all(0),
        )


class Numbers(nn.Module):
    """`Elements.encode` of observations: ids from the first bin on, and bool [B], False where a number is invalid."""

    def __init__(self, elements: Elements) -> None:
        super().__init__()
        rules, self._leaves, self._floating = elements.rules, elements.leaves, elements.kind == np.float64
        self._any_companded, self._all_discrete = elements.any_companded, elements.all_discrete
        self._center, self._half, self._companded = map(_tensor, (rules.center, rules.half, rules.companded))
        self._first, self._least, self._most = map(_tensor, (elements.first, *rules.bins))
        if self._floating:
            self._low, self._high = map(_tensor, (rules.low, rules.high))
            return
        self._low, self._high, self._base = (_signed(part, rules.bias) for part in (rules.low, rules.high, rules.base))
        self._discrete, self._last = (
            _tensor(elements.discrete),
            _tensor(rules.choices.astype(np.int64) - 1).clamp(min=0),
        )

    def forward(self, columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Columns by path -> int64 [B, elements], bool [B]."""
        flat = [columns[leaf.path].reshape(len(columns[leaf.path]), -1) for leaf in self._leaves]
        if self._floating:
            x = torch.cat([part.double() for part in flat], dim=1)
            return self._bins(x.maximum(self._low).minimum(self._high) - self._center), x.isfinite().all(1)
        x = torch.cat([_int64(part) for part in flat], dim=1)
        index = x - self._base
        fits = ~self._discrete | ((index >= 0) & (index <= self._last))
        ids = index.clamp(min=0).minimum(self._last)
        if not self._all_discrete:
            offset = (x.maximum(self._low).minimum(self._high) - self._base).double() - self._center
            ids = torch.where(self._discrete, ids, self._bins(offset))
        return self._first + ids, fits.all(1)

    def _bins(self, offset: Tensor) -> Tensor:
        y = offset / self._half
        if self._any_companded:
            companded = y.sign() * (y.abs() * MU).log1p() / math.log1p(M * MU)
            y = torch.where(self._companded, companded, y)
        return ((y + 1) * (BINS / 2)).floor().long().maximum(self._least).minimum(self._most)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _signed(numbers: NDArray[np.uint64], bias: NDArray[np.uint64]) -> Tensor:
    """Biased unsigned numbers without their bias, saturated to int64."""
    plain = [n - b for n, b in zip(numbers.tolist(), bias.tolist(), strict=True)]
    return torch.tensor([min(max(n, -WIDEST), WIDEST - 1) for n in plain], dtype=torch.int64)


def _int64(column: Tensor) -> Tensor:
    """Integers as int64; larger values of uint64 become the largest int64."""
    x = column.long()
    return torch.where(x < 0, WIDEST - 1, x) if column.dtype == torch.uint64 else x


class DigitSplit(nn.Module):
    """Split of large discrete values into digits (`envs/spaces/digits.py`), and bool [B], False for a value beyond."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self._values = np.ravel(space.n if hasattr(space, "n") else space.nvec).tolist()
        self._spare = [surplus(n) for n in self._values]
        self._start = torch.from_numpy(np.ravel(space.start).astype(np.int64))

    def forward(self, column: Tensor) -> tuple[Tensor, Tensor]:
        """Values [B, ...] -> int64 [B, digits], bool [B]."""
        index = _int64(column).reshape(len(column), -1) - self._start
        most = torch.tensor(self._values) - 1
        digits = [
            part
            for n, spare, value in zip(
                self._values, self._spare, index.clamp(min=0).minimum(most).unbind(1), strict=True
            )
            for part in split(n, spare, value)
        ]
        return torch.stack(digits, dim=1), ((index >= 0) & (index <= most)).all(1)


def surplus(n: int) -> int:
    """Number of codes that the digits of n values have beyond n.

    Raises:
        UsageError: values whose digits cannot be computed in int64.
    """
    spare = math.prod(sizes_of(n)) - n
    if (n + spare) * (spare + 1) >= WIDEST:
        raise UsageError(f"a graph cannot split {n:,} discrete values into digits exactly: play it with gato-agent")
    return spare


def split(n: int, spare: int, value: Tensor) -> list[Tensor]:
    """Digits of values below `n`, the highest first; `spare` is the surplus of `n`."""
    sizes = sizes_of(n)
    if spare:
        value = value + (value * spare + n - 1) // n  # value * codes / n, rounded up
    weights = [math.prod(sizes[at + 1 :]) for at in range(len(sizes))]
    return [value.div(weight, rounding_mode="floor") % size for weight, size in zip(weights, sizes, strict=True)]


def cut(layout: ImageLayout, images: Tensor) -> Tensor:
    """Images [B, *shape] -> integer patches [B, k, 16, 16, 4]: `ImageLayout.arrange`, then `cut_patches`."""
    moved = images.int().movedim((layout.side + 1, layout.side + 2), (1, 2))
    flat = padded(moved.flatten(3) if moved.ndim > 3 else moved.unsqueeze(3),
                  (layout.height, layout.width, layout.sets * layout.channels))  # fmt: skip
    rows, columns = (-(-side // PATCH_SIZE) for side in (layout.height, layout.width))
    patches = []
    for picture in flat.chunk(layout.sets, dim=3):
        colours = torch.cat([picture] * 3, dim=3) if layout.channels == 1 else picture
        canvas = padded(colours, (rows * PATCH_SIZE, columns * PATCH_SIZE, 4))
        grid = canvas.reshape(-1, rows, PATCH_SIZE, columns, PATCH_SIZE, 4).transpose(2, 3)
        patches.append(grid.reshape(-1, rows * columns, PATCH_SIZE, PATCH_SIZE, 4))
    return torch.cat(patches, dim=1)
