"""A training batch: sequences of tokens, and the actions to be predicted."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

CONDITIONAL_EVERY = 2  # every second action trains the conditional part, which costs as much as the marginal one


class Targets(NamedTuple):
    """Actions to be predicted, sorted by decreasing number of tokens: those with a token j are the first rows.

    Attributes:
        position: int64 [m], flat index into batch x length of the token that predicts the first action token.
        ids: int64 [m, A], the action tokens, padded with 0.
        family: int64 [m], index of the task's family.
        weight: float32 [m], loss weight of each action token.
        ranges: by action token, the ranges of legal ids.
        begin: first row that trains the conditional part of an action decoder; every CONDITIONAL_EVERY-th does.
        offset: by action token, positions from `position` to the token that predicts it.
        families: number of families, in this batch or not.
        tokens: number of action tokens.
        weighed: sum of the weights of all action tokens.
    """

    position: Tensor
    ids: Tensor
    family: Tensor
    weight: Tensor
    ranges: list[list["IdRange"]]
    begin: int
    offset: list[int]
    families: int
    tokens: int
    weighed: float

    def to(self, device: torch.device | str) -> Self:
        """Copy on a device; small tensors are moved in one transfer."""
        parts = [part for ranges in self.ranges for each in ranges for part in (each.rows, each.learned)]
        every = torch.cat([self.position[:0], *parts]).to(device, non_blocking=True)
        moved = iter(torch.split(every, [len(part) for part in parts]))
        return self._replace(
            position=self.position.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
            family=self.family.to(device, non_blocking=True),
            weight=self.weight.to(device, non_blocking=True),
            ranges=[[IdRange(r.low, r.high, next(moved), next(moved)) for r in ranges] for ranges in self.ranges],
        )

    def count(self, at: int) -> int:
        """Number of actions that have token `at`."""
        return sum(len(each.rows) for each in self.ranges[at])


class IdRange(NamedTuple):
    """Legal ids [low, high) of one action token, and the actions with these.

    Attributes:
        rows: int64 [k], rows of `Targets.position`, ascending.
        learned: int64 [l], subset of `rows` that trains the conditional part of an action decoder.
    """

    low: int
    high: int
    rows: Tensor
    learned: Tensor


@dataclass(frozen=True)
class Batch:
    """Sequences of tokens and their prediction targets."""

    tokens: Tensor  # int64 [batch, length]; ids, PAD, PATCH or VALUES
    local: Tensor  # int64 [batch, length], position in an observation; -1 where a token has none
    segment: Tensor  # int64 [batch, length], number of the episode segment
    patches: Tensor | None  # uint8 [k, 16, 16, 4]
    intervals: Tensor | None  # int64 [k, 2, 2]
    targets: Targets
    index: Tensor | None = None  # int64 [batch, length], position in the segment; None: position in the sequence
    prefix_len: Tensor | None = None  # int64 [batch, length], tokens of the prompt that the segment begins with
    until: Tensor | None = None  # int64 [batch, length], position of the last query that may attend to the token
    value_groups: Tensor | None = None  # int16 [p, values_per_token]

    def to(self, device: torch.device | str) -> "Batch":
        """Copy of the batch on a device."""
        tensors = {key: value for key, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {key: value.to(device, non_blocking=True) for key, value in tensors.items()}
        return replace(self, targets=self.targets.to(device), **moved)
