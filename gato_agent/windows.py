"""Windows of tokens for training, of fragments of episodes; which is where is a pure function of (seed, step)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gato_agent.prompt import DEMO_SHARE
from gato_agent.spaces import PACK, PAD, PATCH
from gato_agent.tokenized import Opening, TokenizedTask

TargetKind = tuple[int, int, int, int, float]  # what targets share: low, high, family, place, weight


class Targets(NamedTuple):
    """Action tokens to be predicted that share a range of legal ids, of tasks of one family."""

    low: int
    high: int
    position: Tensor  # int64 [m], flat index into batch x window of the token that predicts it
    id: Tensor  # int64 [m], the token to predict
    family: int = 0  # of the tasks that they are from
    place: int = 0  # among the action tokens that are predicted from the same state
    weight: float = 1.0  # of each in the loss


@dataclass(frozen=True)
class Batch:
    """Windows of tokens, and what is to be predicted in them."""

    tokens: Tensor  # int64 [batch, window]; ids, PAD, PATCH or PACK
    local: Tensor  # int64 [batch, window]; -1 where a token has no place in an observation
    segment: Tensor  # int64 [batch, window]; episode fragment that a token belongs to
    patches: Tensor | None  # uint8 [k, 16, 16, 4]
    intervals: Tensor | None  # int64 [k, 2, 2]
    targets: list[Targets]
    families: int = 1  # that there are, in this batch or not
    index: Tensor | None = None  # int64 [batch, window], place in its fragment; None where no task has prompts
    pinned: Tensor | None = None  # int64 [batch, window], tokens of the prompt that its fragment begins with
    packs: Tensor | None = None  # int16 [p, pack]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        tokens, local, segment = (x.to(device, non_blocking=True) for x in (self.tokens, self.local, self.segment))
        counts = [len(t.id) for t in self.targets]  # many and small ones, which are moved together
        asked, ids = (
            torch.split(torch.cat(parts).to(device, non_blocking=True), counts) if parts else ()
            for parts in ([t.position for t in self.targets], [t.id for t in self.targets])
        )
        targets = [t._replace(position=p, id=i) for t, p, i in zip(self.targets, asked, ids, strict=True)]
        images, prompts = (move(self.patches), move(self.intervals)), (move(self.index), move(self.pinned))
        return Batch(tokens, local, segment, *images, targets, self.families, *prompts, move(self.packs))


class Windows:
    """Batches of windows, mixed from tasks; `batch(step)` depends on the seed and the step alone.

    Tasks are drawn fragment by fragment, those with short fragments more often.

    Args:
        tasks: tokenized tasks.
        weights: share of the tokens that is of each task, nearly; equal by default.
        window: tokens per window.
        batch_size: windows per batch.
        seed: of all choices.
        demos: share of the fragments that begin with a demonstration, of tasks that have such prompts.
        shortest: tokens of the shortest fragments; their lengths are log-uniform up to a window. 0: as long as there is
            room. Timesteps that follow each other teach much the same, so many short fragments teach more.
        by_timestep: whether all timesteps weigh the same in the loss, and not all action tokens.
    """

    def __init__(
        self, tasks: Sequence[TokenizedTask], *, window: int, batch_size: int, seed: int = 0,
        weights: Sequence[float] | None = None, demos: float = DEMO_SHARE, shortest: int = 0, by_timestep: bool = False,
    ) -> None:  # fmt: skip
        self.tasks, self.window, self.batch_size, self.seed = list(tasks), window, batch_size, seed
        self.shortest, self.by_timestep = min(shortest, window) or window, by_timestep
        lengths = self.shortest * (window / self.shortest) ** ((np.arange(20) + 0.5) / 20)
        share = np.ones(len(self.tasks)) if weights is None else np.asarray(weights, dtype=np.float64)
        share /= [np.mean([task.mean_fragment(int(length)) for length in lengths]) for task in self.tasks]
        self.weights, self.demos = share / share.sum(), demos
        self.prompted = any(task.prompt.kind != "none" for task in self.tasks)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """The batch of one training step, or every `parts`-th window of it from window `part` on."""
        rng = np.random.default_rng((self.seed, step))
        windows = [_Window(self, rng) for _ in range(self.batch_size)][part::parts]
        patches = [patch for w in windows for patch in w.patches]
        intervals = [interval for w in windows for interval in w.intervals]
        packs = [pack for w in windows for pack in w.packs]
        tokens, local, segment, index, pinned = (
            torch.from_numpy(np.stack(streams))
            for streams in zip(*((w.tokens, w.local, w.segment, w.index, w.pinned) for w in windows), strict=True)
        )
        return Batch(
            tokens,
            local,
            segment,
            torch.from_numpy(np.concatenate(patches)) if patches else None,
            torch.from_numpy(np.concatenate(intervals)).long() if intervals else None,
            self._targets(windows),
            1 + max(task.family for task in self.tasks),
            index if self.prompted else None,
            pinned if self.prompted else None,
            torch.from_numpy(np.concatenate(packs)) if packs else None,
        )

    def _targets(self, windows: "list[_Window]") -> list[Targets]:
        """Collect the targets of all windows by their range of legal ids, family, place and weight."""
        found: dict[TargetKind, list[tuple[NDArray[np.int64], NDArray[np.int32]]]] = {}
        for i, window in enumerate(windows):
            for kind, position, label in window.targets:
                found.setdefault(kind, []).append((position + i * self.window, label))
        targets = []
        for (low, high, family, place, weight), pairs in sorted(found.items()):
            at, ids = (torch.from_numpy(np.concatenate(part)).long() for part in zip(*pairs, strict=True))
            targets.append(Targets(low, high, at, ids, family, place, weight))
        return targets


class _Window:
    """One window under construction: fragments of episodes, one after the other, until it is full."""

    def __init__(self, source: Windows, rng: np.random.Generator) -> None:
        self.tokens = np.full(source.window, PAD, dtype=np.int64)
        self.local = np.full(source.window, -1, dtype=np.int64)
        self.segment, self.index, self.pinned = np.zeros((3, source.window), dtype=np.int64)
        self.patches: list[NDArray[np.uint8]] = []
        self.intervals: list[NDArray[np.int32]] = []
        self.packs: list[NDArray[np.int16]] = []
        self.targets: list[tuple[TargetKind, NDArray[np.int64], NDArray[np.int32]]] = []
        self.by_timestep = source.by_timestep
        at = number = 0
        while at < source.window:
            task = source.tasks[rng.choice(len(source.tasks), p=source.weights)]
            longest = source.window
            if source.shortest < longest:
                longest = round(source.shortest * (longest / source.shortest) ** rng.random())
            where = task.fragment(rng, min(longest, source.window - at))
            at += self._append(task, where, task.opening(rng, where, source.demos), at, number)
            number += 1

    def _append(self, task: TokenizedTask, where: slice, opening: Opening, at: int, number: int) -> int:
        """Write a fragment and its prompt at a position, cut where the window ends; return its length in tokens."""
        rows, room = task.rows[where], len(self.tokens) - at
        tokens = np.concatenate((opening.tokens, rows.reshape(-1)))[:room]
        place = slice(at, at + len(tokens))
        self.tokens[place], self.segment[place], self.pinned[place] = tokens, number, opening.pinned
        self.local[place] = np.concatenate((opening.local, np.tile(task.local, len(rows))))[:room]
        self.index[place] = np.concatenate((opening.index, opening.pinned + np.arange(rows.size)))[:room]
        patches, packs = task.seen(where)
        if packed := int((tokens == PACK).sum()):
            self.packs.append((np.concatenate((opening.packs, packs)) if len(opening.packs) else packs)[:packed])
        if shown := int((tokens == PATCH).sum()):
            patches = np.concatenate((opening.patches, patches))
            self.patches.append(patches[:shown])
            repeats = -(-len(patches) // len(task.tokenizer.patch_intervals))
            self.intervals.append(np.tile(task.tokenizer.patch_intervals, (repeats, 1, 1))[:shown])
        weight = 1 / task.tokenizer.n_act if self.by_timestep else 1.0
        for i, (low, high) in enumerate(task.tokenizer.legal.tolist()):
            after, which = divmod(i, task.tokenizer.each)
            token = np.arange(len(opening.tokens) + task.tokenizer.first + after, len(tokens), rows.shape[1])
            label = task.labels[where][: len(token), i]
            self.targets.append(((low, high, task.family, which, weight), at + token, label))
        return len(tokens)
