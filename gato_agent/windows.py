"""Episodes -> windows of tokens for training; which window is where is a pure function of (seed, step)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gato_agent.envs.errors import GatoError, SpaceError
from gato_agent.rollouts.episode import Episode
from gato_agent.spaces import PAD, PATCH, SpaceTokenizer


class Targets(NamedTuple):
    """Action tokens to be predicted that share a range of legal ids, of tasks of one family."""

    low: int
    high: int
    position: Tensor  # int64 [m], flat index into batch x window of the token before
    id: Tensor  # int64 [m], the token to predict
    family: int = 0  # of the tasks that they are from


@dataclass(frozen=True)
class Batch:
    """Windows of tokens, and what is to be predicted in them."""

    tokens: Tensor  # int64 [batch, window]; ids, PAD or PATCH
    local: Tensor  # int64 [batch, window]; -1 where a token has no place in an observation
    segment: Tensor  # int64 [batch, window]; episode fragment that a token belongs to
    patches: Tensor | None  # uint8 [k, 16, 16, 4]
    intervals: Tensor | None  # int64 [k, 2, 2]
    targets: list[Targets]
    families: int = 1  # that there are, in this batch or not

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        tokens, local, segment = (x.to(device, non_blocking=True) for x in (self.tokens, self.local, self.segment))
        targets = [t._replace(position=t.position.to(device), id=t.id.to(device)) for t in self.targets]
        return Batch(tokens, local, segment, move(self.patches), move(self.intervals), targets, self.families)


class TokenizedTask:
    """All episodes of one task as rows of tokens, one row per timestep.

    Attributes:
        rows: int32 [timesteps, tokens_per_step]: observation, separator, executed action.
        labels: int32 [timesteps, n_act]: the expert's action.
        patches: uint8 [timesteps, k, 16, 16, 4].
        ends: int64 [episodes], one past each episode's last row.
        family: index of the family that it is of, so that their losses can be told apart.
    """

    family = 0

    def __init__(self, name: str, tokenizer: SpaceTokenizer, separator: int, episodes: Sequence[Episode]) -> None:
        if not episodes:
            raise GatoError(f"{name}: no episodes to train on; collect some with `gato-agent collect --env {name}`")
        self.name, self.tokenizer = name, tokenizer
        parts = [_tokenize(name, tokenizer, separator, episode) for episode in episodes]
        self.rows, self.labels, self.patches = (np.concatenate(part) for part in zip(*parts, strict=True))
        self.ends = np.cumsum([len(rows) for rows, _, _ in parts])
        n_obs, n_act = tokenizer.n_obs, tokenizer.n_act
        self.local = np.array([*range(n_obs), *[-1] * (1 + n_act)])

    @property
    def tokens(self) -> int:
        """Number of tokens in all episodes."""
        return self.rows.size

    def fragment(self, rng: np.random.Generator, length: int) -> slice:
        """Rows of one episode, at most `length` tokens of whole timesteps and at least one timestep.

        Starts are uniform over all positions where a fragment of this length would touch an episode, moved to the
        episode's beginning where they lie before it: every timestep of every episode is seen equally often, but for
        the first ones, which are seen up to twice as often and mostly without a past, as they are in play.
        """
        count = max(1, length // self.rows.shape[1])
        before = count - 1  # positions ahead of an episode's first row
        positions = self.ends + before * np.arange(1, len(self.ends) + 1)
        position = int(rng.integers(positions[-1]))
        episode = int(np.searchsorted(positions, position, side="right"))
        begin, end = int(self.ends[episode - 1]) if episode else 0, int(self.ends[episode])
        start = max(begin, position - before * (episode + 1))
        return slice(start, min(end, start + count))


def _tokenize(
    name: str, tokenizer: SpaceTokenizer, separator: int, episode: Episode
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """Rows, labels and patches of one episode; the final observation leads to no action and is left out."""
    try:
        tokens, patches = tokenizer.encode_observations({k: v[:-1] for k, v in episode.observations.items()})
        actions = tokenizer.encode_actions(episode.actions)
        labels = actions if episode.labels is None else tokenizer.encode_actions(episode.labels)
    except SpaceError as error:
        raise GatoError(f"{name}: seed {episode.seed}, step {error.row}: {error}") from error
    rows = np.concatenate((tokens, np.full((len(tokens), 1), separator), actions), axis=1, dtype=np.int32)
    return rows, labels, patches


class Windows:
    """Batches of windows, mixed from tasks; `batch(step)` depends on the seed and the step alone.

    Args:
        tasks: tokenized tasks.
        weights: how often a fragment is of each task, equally by default.
        window: tokens per window.
        batch_size: windows per batch.
        seed: of all choices.
    """

    def __init__(
        self, tasks: Sequence[TokenizedTask], *, window: int, batch_size: int, seed: int = 0,
        weights: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.tasks, self.window, self.batch_size, self.seed = list(tasks), window, batch_size, seed
        share = np.ones(len(self.tasks)) if weights is None else np.asarray(weights, dtype=np.float64)
        self.weights = share / share.sum()

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """The batch of one training step, or every `parts`-th window of it from window `part` on."""
        rng = np.random.default_rng((self.seed, step))
        windows = [_Window(self, rng) for _ in range(self.batch_size)][part::parts]
        patches = [patch for w in windows for patch in w.patches]
        intervals = [interval for w in windows for interval in w.intervals]
        tokens, local, segment = (
            torch.from_numpy(np.stack(streams))
            for streams in zip(*((w.tokens, w.local, w.segment) for w in windows), strict=True)
        )
        return Batch(
            tokens,
            local,
            segment,
            torch.from_numpy(np.concatenate(patches)) if patches else None,
            torch.from_numpy(np.concatenate(intervals)).long() if intervals else None,
            self._targets(windows),
            1 + max(task.family for task in self.tasks),
        )

    def _targets(self, windows: "list[_Window]") -> list[Targets]:
        """Collect the targets of all windows by their range of legal ids and their family."""
        found: dict[tuple[int, int, int], list[tuple[NDArray[np.int64], NDArray[np.int32]]]] = {}
        for i, window in enumerate(windows):
            for kind, position, label in window.targets:
                found.setdefault(kind, []).append((position + i * self.window, label))
        targets = []
        for (low, high, family), pairs in sorted(found.items()):
            at, ids = (torch.from_numpy(np.concatenate(part)).long() for part in zip(*pairs, strict=True))
            targets.append(Targets(low, high, at, ids, family))
        return targets


class _Window:
    """One window under construction: fragments of episodes, one after the other, until it is full."""

    def __init__(self, source: Windows, rng: np.random.Generator) -> None:
        self.tokens = np.full(source.window, PAD, dtype=np.int64)
        self.local = np.full(source.window, -1, dtype=np.int64)
        self.segment = np.zeros(source.window, dtype=np.int64)
        self.patches: list[NDArray[np.uint8]] = []
        self.intervals: list[NDArray[np.int32]] = []
        self.targets: list[tuple[tuple[int, int, int], NDArray[np.int64], NDArray[np.int32]]] = []
        at = number = 0
        while at < source.window:
            task = source.tasks[rng.choice(len(source.tasks), p=source.weights)]
            at += self._append(task, task.fragment(rng, source.window - at), at, number)
            number += 1

    def _append(self, task: TokenizedTask, where: slice, at: int, number: int) -> int:
        """Write a fragment at a position, cut where the window ends; return its length in tokens."""
        rows = task.rows[where]
        tokens = rows.reshape(-1)[: len(self.tokens) - at]
        place = slice(at, at + len(tokens))
        self.tokens[place], self.segment[place] = tokens, number
        self.local[place] = np.tile(task.local, len(rows))[: len(tokens)]
        shown = int((tokens == PATCH).sum())
        if shown:
            self.patches.append(task.patches[where].reshape(-1, *task.patches.shape[2:])[:shown])
            self.intervals.append(np.tile(task.tokenizer.patch_intervals, (len(rows), 1, 1))[:shown])
        for i, (low, high) in enumerate(task.tokenizer.legal.tolist()):
            before = np.arange(task.tokenizer.n_obs + i, len(tokens), rows.shape[1])
            self.targets.append(((low, high, task.family), at + before, task.labels[where][: len(before), i]))
        return len(tokens)
