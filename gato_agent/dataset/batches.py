"""Windows of tokens for training, of segments of episodes; which is where is a pure function of (seed, step)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gato_agent.dataset.task_tokens import NO_ONE, PrefixTokens, TokenizedTask
from gato_agent.tokens.prompt import DEMO_SHARE
from gato_agent.tokens.space_tokenizer import PAD, PATCH, VALUES
from gato_agent.tokens.timestep_layout import ALWAYS


class Targets(NamedTuple):
    """Actions to be predicted, those of most tokens first, so that the rows with a token j are the first ones.

    Attributes:
        position: int64 [m], flat index into batch x window of the token that predicts the first action token.
        ids: int64 [m, A], the action tokens; of actions with fewer the rest is 0.
        family: int64 [m], of the task.
        weight: float32 [m], of each action token in the loss.
        ranges: for each action token the ranges of legal ids.
        begin: the conditional part of an action decoder learns from the rows `begin`, `begin + CONDITIONAL_EVERY`, ...
        offset: places from the token that predicts one action token to that of the next, by token.
        families: number of families, in this batch or not.
        tokens: number of action tokens.
        weighed: sum over action tokens of their weights.
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
        """The same on a device; small tensors are moved together."""
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
    """Legal ids [low, high) of one action token, and the actions that have it.

    Attributes:
        rows: int64 [k], of `Targets.position`, rising.
        learned: int64 [l], those of them that the conditional part of an action decoder learns from.
    """

    low: int
    high: int
    rows: Tensor
    learned: Tensor


CONDITIONAL_EVERY = 2  # actions per one that trains the conditional part, which costs as much as the marginal one


@dataclass(frozen=True)
class Batch:
    """Windows of tokens, and what is to be predicted in them."""

    tokens: Tensor  # int64 [batch, window]; ids, PAD, PATCH or VALUES
    local: Tensor  # int64 [batch, window]; -1 where a token has no place in an observation
    segment: Tensor  # int64 [batch, window]; episode segment that a token belongs to
    patches: Tensor | None  # uint8 [k, 16, 16, 4]
    intervals: Tensor | None  # int64 [k, 2, 2]
    targets: Targets
    index: Tensor | None = None  # int64 [batch, window], position in its segment; None where it is that in the window
    prefix_len: Tensor | None = None  # int64 [batch, window], tokens of the prompt that its segment begins with
    until: Tensor | None = None  # int64 [batch, window], place of the last token that may attend to it
    value_groups: Tensor | None = None  # int16 [p, values_per_token]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        tensors = {key: value for key, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {key: value.to(device, non_blocking=True) for key, value in tensors.items()}
        return replace(self, targets=self.targets.to(device), **moved)


class BatchSampler:
    """Batches of windows, mixed from tasks; `batch(step)` depends on the seed and the step alone.

    Tasks are drawn segment by segment, those with short segments more often.

    Args:
        tasks: tokenized tasks.
        weights: share of the tokens that is of each task, nearly; equal by default.
        window: tokens per window.
        batch_size: windows per batch.
        seed: of all choices.
        demos: share of the segments that begin with a demonstration, of tasks that have such prompts.
        shortest: tokens of the shortest segments; their lengths are log-uniform up to a window. 0: as long as there is
            room. Timesteps that follow each other teach much the same, so many short segments teach more.
        loss_per_timestep: whether all timesteps weigh the same in the loss, and not all action tokens.
    """

    def __init__(
        self, tasks: Sequence[TokenizedTask], *, window: int, batch_size: int, seed: int = 0,
        weights: Sequence[float] | None = None, demos: float = DEMO_SHARE, shortest: int = 0,
        loss_per_timestep: bool = False,
    ) -> None:  # fmt: skip
        self.tasks, self.window, self.batch_size, self.seed = list(tasks), window, batch_size, seed
        self.shortest, self.loss_per_timestep = min(shortest, window) or window, loss_per_timestep
        lengths = self.shortest * (window / self.shortest) ** ((np.arange(20) + 0.5) / 20)
        share = np.ones(len(self.tasks)) if weights is None else np.asarray(weights, dtype=np.float64)
        share /= [np.mean([task.mean_segment(int(length)) for length in lengths]) for task in self.tasks]
        self.weights, self.demos = share / share.sum(), demos
        self.prompted = any(task.prompt.kind != "none" for task in self.tasks)
        self.hidden = any(task.tokenizer.layout.hides_actions for task in self.tasks)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """The batch of one training step, or every `parts`-th window of it from window `part` on."""
        rng = np.random.default_rng((self.seed, step))
        windows = [_Window(self, rng) for _ in range(self.batch_size)][part::parts]
        patches = [patch for w in windows for patch in w.patches]
        intervals = [interval for w in windows for interval in w.intervals]
        value_groups = [values_per_token for w in windows for values_per_token in w.value_groups]
        tokens, local, segment, index, prefix_len, until = (
            torch.from_numpy(np.stack(streams))
            for streams in zip(
                *((w.tokens, w.local, w.segment, w.index, w.prefix_len, w.until) for w in windows), strict=True
            )
        )
        return Batch(
            tokens,
            local,
            segment,
            torch.from_numpy(np.concatenate(patches)) if patches else None,
            torch.from_numpy(np.concatenate(intervals)).long() if intervals else None,
            self._targets(windows, int(rng.integers(CONDITIONAL_EVERY))),
            index if self.prompted or self.hidden else None,
            prefix_len if self.prompted else None,
            until if self.hidden else None,
            torch.from_numpy(np.concatenate(value_groups)) if value_groups else None,
        )

    def _targets(self, windows: "list[_Window]", begin_at: int) -> Targets:
        """Collect the actions of all windows, those of most tokens first."""
        found = [(part, i) for i, window in enumerate(windows) for part in window.targets]
        found.sort(key=lambda pair: -pair[0].labels.shape[1])
        most = max((part.labels.shape[1] for part, _ in found), default=0)
        sizes = [len(part.position) for part, _ in found]
        ids = np.zeros((sum(sizes), most), np.int64)
        begins = np.cumsum([0, *sizes])
        ranges: list[dict[tuple[int, int], list[NDArray[np.int64]]]] = [{} for _ in range(most)]
        for (part, _), begin, end in zip(found, begins, begins[1:], strict=False):
            ids[begin:end, : part.labels.shape[1]] = part.labels
            for at, (low, high) in enumerate(part.legal):
                ranges[at].setdefault((low, high), []).append(np.arange(begin, end))

        def each(values: Sequence[float]) -> Tensor:
            return torch.from_numpy(np.repeat(np.asarray(values), sizes))

        position = [part.position + i * self.window for part, i in found]
        layout = self.tasks[0].tokenizer.layout
        return Targets(
            torch.from_numpy(np.concatenate([NO_ONE, *position])),
            torch.from_numpy(ids),
            each([part.family for part, _ in found]).long(),
            each([part.weight for part, _ in found]).float(),
            [[_range(*legal, rows, begin_at) for legal, rows in sorted(kinds.items())] for kinds in ranges],
            begin_at,
            [layout.predictor(at) - layout.first for at in range(most)],
            1 + max(task.family for task in self.tasks),
            sum(part.labels.size for part, _ in found),
            float(sum(part.labels.size * part.weight for part, _ in found)),
        )


def _range(low: int, high: int, rows: list[NDArray[np.int64]], begin: int) -> IdRange:
    every = torch.from_numpy(np.concatenate(rows))
    return IdRange(low, high, every, every[every % CONDITIONAL_EVERY == begin])


class _Part(NamedTuple):
    """Actions of a segment whose first token is predicted within the window."""

    legal: list[tuple[int, int]]
    family: int
    weight: float
    position: NDArray[np.int64]
    labels: NDArray[np.int32]  # [timesteps, n_act]


class _Window:
    """One window under construction: segments of episodes, one after the other, until it is full."""

    def __init__(self, source: BatchSampler, rng: np.random.Generator) -> None:
        self.tokens = np.full(source.window, PAD, dtype=np.int64)
        self.local = np.full(source.window, -1, dtype=np.int64)
        self.segment, self.index, self.prefix_len = np.zeros((3, source.window), dtype=np.int64)
        self.until = np.full(source.window, ALWAYS, dtype=np.int64)
        self.patches: list[NDArray[np.uint8]] = []
        self.intervals: list[NDArray[np.int32]] = []
        self.value_groups: list[NDArray[np.int16]] = []
        self.targets: list[_Part] = []
        self.loss_per_timestep = source.loss_per_timestep
        at = number = 0
        while at < source.window:
            task = source.tasks[rng.choice(len(source.tasks), p=source.weights)]
            longest = source.window
            if source.shortest < longest:
                longest = round(source.shortest * (longest / source.shortest) ** rng.random())
            where = task.segment_at(rng, min(longest, source.window - at))
            at += self._append(task, where, task.prefix(rng, where, source.demos), at, number)
            number += 1

    def _append(self, task: TokenizedTask, where: slice, prefix: PrefixTokens, at: int, number: int) -> int:
        """Write a segment and its prompt at a position, cut where the window ends; return its length in tokens."""
        rows, room = task.rows[where], len(self.tokens) - at
        tokens = np.concatenate((prefix.tokens, rows.reshape(-1)))[:room]
        place = slice(at, at + len(tokens))
        self.tokens[place], self.segment[place], self.prefix_len[place] = tokens, number, prefix.prefix_len
        layout, steps = task.tokenizer.layout, np.arange(len(rows))[:, None]
        self.local[place] = np.concatenate((prefix.local, np.tile(layout.local, len(rows))))[:room]
        index = prefix.prefix_len + steps * layout.span + np.arange(layout.length)
        self.index[place] = np.concatenate((prefix.index, index.ravel()))[:room]
        start = at + len(prefix.tokens)
        until = np.minimum(start + steps * layout.length + layout.until, ALWAYS)
        self.until[place] = np.concatenate((np.full(len(prefix.tokens), ALWAYS), until.ravel()))[:room]
        patches, value_groups = task.seen(where)
        if grouped := int((tokens == VALUES).sum()):
            self.value_groups.append(
                (np.concatenate((prefix.value_groups, value_groups)) if len(prefix.value_groups) else value_groups)[
                    :grouped
                ]
            )
        if shown := int((tokens == PATCH).sum()):
            patches = np.concatenate((prefix.patches, patches))
            self.patches.append(patches[:shown])
            repeats = -(-len(patches) // len(task.tokenizer.patch_intervals))
            self.intervals.append(np.tile(task.tokenizer.patch_intervals, (repeats, 1, 1))[:shown])
        weight = 1 / task.tokenizer.n_act if self.loss_per_timestep else 1.0
        # Of a timestep that the window cuts before its last action token nothing is learned.
        last = layout.predictor(layout.n_act - 1) - layout.first
        position = np.arange(start + layout.first, at + len(tokens) - last, layout.length)
        legal = [(int(low), int(high)) for low, high in task.tokenizer.legal]
        self.targets.append(_Part(legal, task.family, weight, position, task.labels[where][: len(position)]))
        return len(tokens)
