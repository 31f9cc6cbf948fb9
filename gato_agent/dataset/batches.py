"""Training batches: sequences of episode segments, a pure function of (seed, step)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gato_agent.dataset.batch import CONDITIONAL_EVERY, Batch, IdRange, Targets
from gato_agent.dataset.task_tokens import NO_INDICES, PrefixTokens, TokenizedTask
from gato_agent.tokens.prompt import DEMO_SHARE
from gato_agent.tokens.space_tokenizer import PAD, PATCH, VALUES
from gato_agent.tokens.timestep_layout import ALWAYS


class BatchSampler:
    """Sampler of batches from a mixture of tasks; `batch(step)` depends on the seed and the step alone.

    A sequence is filled with segments of episodes. The task is drawn for each segment, tasks of short segments more
    often, so that shares of tokens are as `weights` says.

    Args:
        tasks: tokenized tasks.
        sequence_length: tokens of a sequence.
        batch_size: sequences of a batch.
        seed: of all random choices.
        weights: approximate share of the tokens of each task; equal by default.
        demos: share of the segments that begin with a demonstration, in tasks with such prompts.
        min_segment: minimum length of a segment in tokens; lengths are log-uniform from it to a sequence. 0: segments
            fill the sequence. Adjacent timesteps are correlated, so many short segments carry more information.
        loss_per_timestep: True if all timesteps have equal weight in the loss, False if all action tokens have.
    """

    def __init__(
        self, tasks: Sequence[TokenizedTask], *, sequence_length: int, batch_size: int, seed: int = 0,
        weights: Sequence[float] | None = None, demos: float = DEMO_SHARE, min_segment: int = 0,
        loss_per_timestep: bool = False,
    ) -> None:  # fmt: skip
        self.tasks, self.sequence_length, self.batch_size, self.seed = list(tasks), sequence_length, batch_size, seed
        self.min_segment, self.loss_per_timestep = (
            min(min_segment, sequence_length) or sequence_length,
            loss_per_timestep,
        )
        lengths = self.min_segment * (sequence_length / self.min_segment) ** ((np.arange(20) + 0.5) / 20)
        share = np.ones(len(self.tasks)) if weights is None else np.asarray(weights, dtype=np.float64)
        share /= [np.mean([task.mean_segment(int(length)) for length in lengths]) for task in self.tasks]
        self.weights, self.demos = share / share.sum(), demos
        self.prompted = any(task.prompt.kind != "none" for task in self.tasks)
        self.hidden = any((task.tokenizer.layout.until < ALWAYS).any() for task in self.tasks)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Batch of one training step, or its micro-batch of every `parts`-th sequence from number `part` on."""
        rng = np.random.default_rng((self.seed, step))
        sequences = [_Sequence(self, rng) for _ in range(self.batch_size)][part::parts]
        patches = [patch for each in sequences for patch in each.patches]
        intervals = [interval for each in sequences for interval in each.intervals]
        value_groups = [groups for each in sequences for groups in each.value_groups]
        tokens, local, segment, index, prefix_len, until = (
            torch.from_numpy(np.stack(streams))
            for streams in zip(
                *((s.tokens, s.local, s.segment, s.index, s.prefix_len, s.until) for s in sequences), strict=True
            )
        )
        return Batch(
            tokens,
            local,
            segment,
            torch.from_numpy(np.concatenate(patches)) if patches else None,
            torch.from_numpy(np.concatenate(intervals)).long() if intervals else None,
            self._targets(sequences, int(rng.integers(CONDITIONAL_EVERY))),
            index if self.prompted or self.hidden else None,
            prefix_len if self.prompted else None,
            until if self.hidden else None,
            torch.from_numpy(np.concatenate(value_groups)) if value_groups else None,
        )

    def _targets(self, sequences: "list[_Sequence]", begin_at: int) -> Targets:
        """Targets of all sequences, sorted by decreasing number of action tokens."""
        parts = [(part, i) for i, sequence in enumerate(sequences) for part in sequence.targets]
        parts.sort(key=lambda pair: -pair[0].labels.shape[1])
        most = max((part.labels.shape[1] for part, _ in parts), default=0)
        sizes = [len(part.position) for part, _ in parts]
        ids = np.zeros((sum(sizes), most), np.int64)
        begins = np.cumsum([0, *sizes])
        ranges: list[dict[tuple[int, int], list[NDArray[np.int64]]]] = [{} for _ in range(most)]
        for (part, _), begin, end in zip(parts, begins, begins[1:], strict=False):
            ids[begin:end, : part.labels.shape[1]] = part.labels
            for at, (low, high) in enumerate(part.legal):
                ranges[at].setdefault((low, high), []).append(np.arange(begin, end))

        def each(values: Sequence[float]) -> Tensor:
            return torch.from_numpy(np.repeat(np.asarray(values), sizes))

        position = [part.position + i * self.sequence_length for part, i in parts]
        layout = self.tasks[0].tokenizer.layout
        return Targets(
            torch.from_numpy(np.concatenate([NO_INDICES, *position])),
            torch.from_numpy(ids),
            each([part.family for part, _ in parts]).long(),
            each([part.weight for part, _ in parts]).float(),
            [[_range(*legal, rows, begin_at) for legal, rows in sorted(kinds.items())] for kinds in ranges],
            begin_at,
            [layout.predictor(at) - layout.first for at in range(most)],
            1 + max(task.family for task in self.tasks),
            sum(part.labels.size for part, _ in parts),
            float(sum(part.labels.size * part.weight for part, _ in parts)),
        )


def _range(low: int, high: int, rows: list[NDArray[np.int64]], begin: int) -> IdRange:
    every = torch.from_numpy(np.concatenate(rows))
    return IdRange(low, high, every, every[every % CONDITIONAL_EVERY == begin])


class _Part(NamedTuple):
    """Actions of a segment that are predicted within the sequence."""

    legal: list[tuple[int, int]]
    family: int
    weight: float
    position: NDArray[np.int64]
    labels: NDArray[np.int32]  # [timesteps, n_act]


class _Sequence:
    """One sequence, filled with segments of episodes."""

    def __init__(self, source: BatchSampler, rng: np.random.Generator) -> None:
        self.tokens = np.full(source.sequence_length, PAD, dtype=np.int64)
        self.local = np.full(source.sequence_length, -1, dtype=np.int64)
        self.segment, self.index, self.prefix_len = np.zeros((3, source.sequence_length), dtype=np.int64)
        self.until = np.full(source.sequence_length, ALWAYS, dtype=np.int64)
        self.patches: list[NDArray[np.uint8]] = []
        self.intervals: list[NDArray[np.int32]] = []
        self.value_groups: list[NDArray[np.int16]] = []
        self.targets: list[_Part] = []
        self.loss_per_timestep = source.loss_per_timestep
        at = number = 0
        while at < source.sequence_length:
            task = source.tasks[rng.choice(len(source.tasks), p=source.weights)]
            longest = source.sequence_length
            if source.min_segment < longest:
                longest = round(source.min_segment * (longest / source.min_segment) ** rng.random())
            segment_rows = task.segment_at(rng, min(longest, source.sequence_length - at))
            at += self._append(task, segment_rows, task.prefix(rng, segment_rows, source.demos), at, number)
            number += 1

    def _append(self, task: TokenizedTask, segment_rows: slice, prefix: PrefixTokens, at: int, number: int) -> int:
        """Write a prompt and its segment at a position, cut at the sequence's end; returns their length in tokens."""
        rows, room = task.rows[segment_rows], len(self.tokens) - at
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
        patches, value_groups = task.seen(segment_rows)
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
        # A timestep that is cut before its last action token has no targets.
        last = layout.predictor(layout.n_act - 1) - layout.first
        position = np.arange(start + layout.first, at + len(tokens) - last, layout.length)
        legal = [(int(low), int(high)) for low, high in task.tokenizer.legal]
        self.targets.append(_Part(legal, task.family, weight, position, task.labels[segment_rows][: len(position)]))
        return len(tokens)
