"""Tokenized episodes of one task, one row a timestep, and random segments of them with their prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gato_agent.dataset.unique_patches import NO_PATCHES, UniquePatches, flat
from gato_agent.envs.errors import GatoError, SpaceError
from gato_agent.envs.suggested_commands import suggest
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import DEMO_SHARE, NO_PROMPT, Prompt
from gato_agent.tokens.space_tokenizer import PAD, SpaceTokenizer

TOKEN_FORMAT = 2  # raise it with any change of the tokens of an episode: token files of other formats are rewritten


@dataclass(frozen=True)
class PrefixTokens:
    """Prompt of a segment, without padding.

    Attributes:
        prefix_len: tokens of the prompt with padding; 0 without a prompt.
        tokens: int32 [k].
        index: int64 [k], positions in the prompt.
        local: int64 [k], positions in an observation, or -1.
        patches: uint8 [k, 16, 16, 4].
        value_groups: int16 [p, values_per_token].
    """

    prefix_len: int
    tokens: NDArray[np.int32]
    index: NDArray[np.int64]
    local: NDArray[np.int64]
    patches: NDArray[np.uint8]
    value_groups: NDArray[np.int16]


NO_INDICES = np.zeros(0, np.int64)
NO_VALUE_GROUPS = np.zeros((0, 1), np.int16)
NO_PREFIX = PrefixTokens(0, NO_INDICES.astype(np.int32), NO_INDICES, NO_INDICES, NO_PATCHES, NO_VALUE_GROUPS)


class Arrays(NamedTuple):
    """All episodes of one task, one row per timestep.

    Attributes:
        rows: int32 [timesteps, layout.length], tokens of observation, separator and executed action, as far as the
            layout has them.
        labels: int32 [timesteps, n_act], tokens of the expert's action.
        patches: uint8 [k, 16, 16, 4], unique image patches.
        places: int32 [timesteps, patches of an observation], indices into `patches`.
        value_groups: int16 [timesteps, p, values of the widest group].
        ends: int64 [episodes], one past each episode's last row.
        texts: int32 [episodes, prompt.tokens], text prompts; empty for other kinds.
    """

    rows: NDArray[np.int32]
    labels: NDArray[np.int32]
    patches: NDArray[np.uint8]
    places: NDArray[np.int32]
    value_groups: NDArray[np.int16]
    ends: NDArray[np.int64]
    texts: NDArray[np.int32]


class TokenizedTask:
    """Tokenized episodes of one task.

    Args:
        name: id of the task.
        tokenizer: that made the arrays.
        arrays: tokens, in memory or mapped from a file.
        prompt: with which episodes begin.

    Attributes:
        family: index of the task's family, by which losses are logged.
    """

    family = 0

    def __init__(self, name: str, tokenizer: SpaceTokenizer, arrays: Arrays, prompt: Prompt = NO_PROMPT) -> None:
        self.name, self.tokenizer, self.arrays, self.prompt = name, tokenizer, arrays, prompt
        self.rows, self.labels, self.ends, self.texts = arrays.rows, arrays.labels, arrays.ends, arrays.texts
        self.local = tokenizer.layout.local

    @classmethod
    def of(
        cls, name: str, tokenizer: SpaceTokenizer, episodes: Sequence[Episode],
        prompt: Prompt = NO_PROMPT, pieces: Callable[[str], Sequence[int]] | None = None,
    ) -> Self:  # fmt: skip
        """Tokenize episodes, each once and in order, so that they need not be in memory together.

        Args:
            name: of the task.
            tokenizer: of its spaces.
            episodes: at least one.
            prompt: with which episodes begin.
            pieces: string -> ids of text pieces, for text prompts.

        Raises:
            GatoError: no episodes, or one that cannot be tokenized.
        """
        if not episodes:
            raise GatoError(f"{name}: no episodes to train on; collect some with `{suggest('collect', env=name)}`")
        patches = UniquePatches()
        parts = [
            (*_tokenize(name, tokenizer, patches, episode), _text(name, episode, prompt, pieces))
            for episode in episodes
        ]
        rows, labels, places, value_groups, texts = (np.concatenate(part) for part in zip(*parts, strict=True))
        ends = np.cumsum([len(part) for part, *_ in parts])
        return cls(name, tokenizer, Arrays(rows, labels, patches.all(), places, value_groups, ends, texts), prompt)

    @property
    def tokens(self) -> int:
        """Number of tokens in all episodes."""
        return self.rows.size

    def segment_at(self, rng: np.random.Generator, length: int) -> slice:
        """Rows of a random segment of one episode: whole timesteps of at most `length` tokens, at least one.

        Starts are uniform over all positions at which a segment of this length overlaps an episode, and are clamped to
        the episode's first row. So all timesteps are equally frequent, except the first ones: these are up to twice as
        frequent and mostly have no history, as in play.
        """
        count = max(1, length // self.rows.shape[1])
        before = count - 1  # positions ahead of an episode's first row
        positions = self.ends + before * np.arange(1, len(self.ends) + 1)
        position = int(rng.integers(positions[-1]))
        episode = int(np.searchsorted(positions, position, side="right"))
        begin, end = int(self.ends[episode - 1]) if episode else 0, int(self.ends[episode])
        start = max(begin, position - before * (episode + 1))
        return slice(start, min(end, start + count))

    def mean_segment(self, length: int) -> float:
        """Mean length in tokens of segments of at most `length` tokens, without prompts."""
        count, width = max(1, length // self.rows.shape[1]), self.rows.shape[1]
        steps = np.diff(self.ends, prepend=0).astype(np.float64)
        inside = np.minimum(steps - 1, count)  # starts after an episode's first row: count, ..., count, ..., 2, 1 rows
        rows = count * np.minimum(steps, count) + inside * (inside + 1) / 2 + (steps - 1 - inside) * count
        return float(width * rows.sum() / (steps + count - 1).sum())

    def prefix(self, rng: np.random.Generator, rows: slice, demos: float = DEMO_SHARE) -> PrefixTokens:
        """Prompt of a segment: its episode's text, or with probability `demos` timesteps of another episode."""
        if self.prompt.kind == "none":
            return NO_PREFIX
        episode = int(np.searchsorted(self.ends, rows.start, side="right"))
        if self.prompt.kind == "text":
            tokens = self.texts[episode]
            return self._prefix_tokens(tokens, np.full(len(tokens), -1), NO_PATCHES, NO_VALUE_GROUPS)
        if len(self.ends) == 1 or rng.random() >= demos:
            return NO_PREFIX
        shown = self._demonstration_rows(rng, (episode + int(rng.integers(1, len(self.ends)))) % len(self.ends))
        local = np.tile(self.local, shown.stop - shown.start)
        return self._prefix_tokens(self.rows[shown].reshape(-1), local, *self.seen(shown))

    def last(self, length: int) -> PrefixTokens:
        """Demonstration of `length` tokens: the last timesteps of all episodes, padded."""
        rows = slice(max(0, len(self.rows) - length // self.rows.shape[1]), None)
        tokens, local = np.full(length, PAD, np.int32), np.full(length, -1)
        shown = self.rows[rows].reshape(-1)
        tokens[: len(shown)], local[: len(shown)] = shown, np.tile(self.local, len(self.rows[rows]))
        return PrefixTokens(length, tokens, np.arange(length), local, *self.seen(rows))

    def seen(self, rows: slice) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Image patches [k, 16, 16, 4] and value groups [p, values_per_token] of some timesteps."""
        value_groups = flat(self.arrays.value_groups[rows])
        padded = np.full((len(value_groups), self.tokenizer.values_per_token), PAD, np.int16)
        padded[:, : value_groups.shape[1]] = value_groups
        return self.arrays.patches[self.arrays.places[rows].ravel()], padded

    def _demonstration_rows(self, rng: np.random.Generator, episode: int) -> slice:
        """Rows of a demonstration: half the time the last timesteps of an episode, else random ones."""
        begin, end = int(self.ends[episode - 1]) if episode else 0, int(self.ends[episode])
        last = max(begin, end - self.prompt.tokens // self.rows.shape[1])
        start = last if rng.random() < 0.5 else int(rng.integers(begin, last + 1))
        return slice(start, min(end, start + self.prompt.tokens // self.rows.shape[1]))

    def _prefix_tokens(
        self,
        tokens: NDArray[np.int32],
        local: NDArray[np.int64],
        patches: NDArray[np.uint8],
        value_groups: NDArray[np.int16],
    ) -> PrefixTokens:
        index = np.flatnonzero(tokens != PAD)
        return PrefixTokens(self.prompt.tokens, tokens[index], index, local[index], patches, value_groups)


def _text(
    name: str, episode: Episode, prompt: Prompt, pieces: Callable[[str], Sequence[int]] | None
) -> NDArray[np.int32]:
    """Text prompt of an episode, int32 [1, tokens]; raises GatoError if its instruction changes."""
    if prompt.kind != "text":
        return np.zeros((1, 0), np.int32)
    assert pieces is not None
    text = prompt.text
    if prompt.instruction is not None:
        instructions = episode.observations[prompt.instruction][:-1]
        text = instructions[0]
        for step in np.flatnonzero(instructions != text):
            raise GatoError(f"{name}: seed {episode.seed}, step {step}: {prompt.changed(text, instructions[step])}")
    try:
        return prompt.encode([text], pieces)
    except SpaceError as error:
        raise GatoError(f"{name}: seed {episode.seed}: {error}") from error


def _tokenize(
    name: str, tokenizer: SpaceTokenizer, patches: UniquePatches, episode: Episode
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int16]]:
    """Rows, labels, patch indices and value groups of an episode, without its final observation."""
    try:
        seen = tokenizer.encode_observations({k: v[:-1] for k, v in episode.observations.items()})
        actions = tokenizer.encode_actions(episode.actions)
        labels = actions if episode.labels is None else tokenizer.encode_actions(episode.labels)
    except SpaceError as error:
        raise GatoError(f"{name}: seed {episode.seed}, step {error.row}: {error}") from error
    value_groups = seen.value_groups[:, :, : tokenizer.widest].copy()
    read = tokenizer.layout.stream_actions(actions, labels)
    return tokenizer.timesteps(seen.tokens, read), labels, patches.places(seen.patches), value_groups
