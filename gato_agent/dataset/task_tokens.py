"""Episodes of one task -> tokens, one row a timestep; and what segments of them are, with their prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, SpaceError
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.leaf_codecs import distinct
from gato_agent.tokens.prompt import DEMO_SHARE, NO_PROMPT, Prompt
from gato_agent.tokens.space_tokenizer import PAD, SpaceTokenizer

TOKEN_FORMAT = (
    2  # raise it with any change of the tokens that an episode becomes: token files of other formats are made anew
)
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class PrefixTokens:
    """What stands before the timesteps of a segment: its prompt, without the pads.

    Attributes:
        kept as prefix: tokens of the prompt, pads included; 0 without one.
        tokens: int32 [k].
        index: int64 [k], places in the prompt.
        local: int64 [k].
        patches: uint8 [k, 16, 16, 4].
        value_groups: int16 [p, values_per_token].
    """

    prefix_len: int
    tokens: NDArray[np.int32]
    index: NDArray[np.int64]
    local: NDArray[np.int64]
    patches: NDArray[np.uint8]
    value_groups: NDArray[np.int16]


NO_ONE = np.zeros(0, np.int64)
NO_PATCHES, NO_VALUE_GROUPS = np.zeros((0, 16, 16, 4), np.uint8), np.zeros((0, 1), np.int16)
NOTHING = PrefixTokens(0, NO_ONE.astype(np.int32), NO_ONE, NO_ONE, NO_PATCHES, NO_VALUE_GROUPS)


class Arrays(NamedTuple):
    """All episodes of one task, one row per timestep.

    Attributes:
        rows: int32 [timesteps, layout.length]: observation, separator, executed action; or what of these there is
            where no action is read.
        labels: int32 [timesteps, n_act]: the expert's action.
        patches: uint8 [k, 16, 16, 4], each once: much of a picture stays as it was.
        places: int32 [timesteps, patches of an observation], where they are among these.
        value_groups: int16 [timesteps, p, values of the widest values_per_token].
        ends: int64 [episodes], one past each episode's last row.
        texts: int32 [episodes, prompt.tokens], what each episode is prompted with, where that is a text.
    """

    rows: NDArray[np.int32]
    labels: NDArray[np.int32]
    patches: NDArray[np.uint8]
    places: NDArray[np.int32]
    value_groups: NDArray[np.int16]
    ends: NDArray[np.int64]
    texts: NDArray[np.int32]


class TokenizedTask:
    """The episodes of one task as tokens, and what segments of them are.

    Args:
        name: of the task.
        tokenizer: that made the arrays.
        arrays: what it made; they may be mapped from a file.
        prompt: what episodes begin with.

    Attributes:
        family: index of the family that it is of, so that their losses can be told apart.
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
        """Tokenize episodes.

        Args:
            name: of the task.
            tokenizer: of its spaces.
            episodes: at least one.
            prompt: what they begin with.
            pieces: string -> ids of text pieces, for a prompt that is a text.

        Raises:
            GatoError: there are none, or one that cannot be tokenized.
        """
        if not episodes:
            raise GatoError(f"{name}: no episodes to train on; collect some with `gato-agent collect --env {name}`")
        patches = _Distinct()
        parts = [_tokenize(name, tokenizer, patches, episode) for episode in episodes]
        rows, labels, places, value_groups = (np.concatenate(part) for part in zip(*parts, strict=True))
        ends = np.cumsum([len(part) for part, *_ in parts])
        texts = _texts(name, episodes, prompt, pieces)
        return cls(name, tokenizer, Arrays(rows, labels, patches.all(), places, value_groups, ends, texts), prompt)

    @property
    def tokens(self) -> int:
        """Number of tokens in all episodes."""
        return self.rows.size

    def segment_at(self, rng: np.random.Generator, length: int) -> slice:
        """Rows of one episode, at most `length` tokens of whole timesteps and at least one timestep.

        Starts are uniform over all positions where a segment of this length would touch an episode, moved to the
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

    def mean_segment(self, length: int) -> float:
        """Tokens that segments of at most `length` tokens have on average, without their prompts."""
        count, width = max(1, length // self.rows.shape[1]), self.rows.shape[1]
        steps = np.diff(self.ends, prepend=0).astype(np.float64)
        inside = np.minimum(steps - 1, count)  # starts after an episode's first row: count, ..., count, ..., 2, 1 rows
        rows = count * np.minimum(steps, count) + inside * (inside + 1) / 2 + (steps - 1 - inside) * count
        return float(width * rows.sum() / (steps + count - 1).sum())

    def prefix(self, rng: np.random.Generator, where: slice, demos: float = DEMO_SHARE) -> PrefixTokens:
        """The prompt of a segment: its episode's text, or now and then a piece of another episode, or nothing."""
        if self.prompt.kind == "none":
            return NOTHING
        episode = int(np.searchsorted(self.ends, where.start, side="right"))
        if self.prompt.kind == "text":
            tokens = self.texts[episode]
            return self._prefix_tokens(tokens, np.full(len(tokens), -1), NO_PATCHES, NO_VALUE_GROUPS)
        if len(self.ends) == 1 or rng.random() >= demos:
            return NOTHING
        shown = self._piece(rng, (episode + int(rng.integers(1, len(self.ends)))) % len(self.ends))
        local = np.tile(self.local, shown.stop - shown.start)
        return self._prefix_tokens(self.rows[shown].reshape(-1), local, *self.seen(shown))

    def last(self, length: int) -> PrefixTokens:
        """The last timesteps of all, `length` tokens of them; what is missing is padded."""
        rows = slice(max(0, len(self.rows) - length // self.rows.shape[1]), None)
        tokens, local = np.full(length, PAD, np.int32), np.full(length, -1)
        shown = self.rows[rows].reshape(-1)
        tokens[: len(shown)], local[: len(shown)] = shown, np.tile(self.local, len(self.rows[rows]))
        return PrefixTokens(length, tokens, np.arange(length), local, *self.seen(rows))

    def seen(self, rows: slice) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """All patches [k, 16, 16, 4] and all value groups [p, values_per_token] of some timesteps."""
        value_groups = flat(self.arrays.value_groups[rows])
        padded = np.full((len(value_groups), self.tokenizer.values_per_token), PAD, np.int16)
        padded[:, : value_groups.shape[1]] = value_groups
        return self.arrays.patches[self.arrays.places[rows].ravel()], padded

    def _piece(self, rng: np.random.Generator, episode: int) -> slice:
        """As many timesteps of an episode as make a prompt: every other time the last ones, else from anywhere."""
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


def flat(parts: NDArray[Scalar]) -> NDArray[Scalar]:
    """[timesteps, k, ...] -> [timesteps * k, ...]."""
    return parts.reshape(parts.shape[0] * parts.shape[1], *parts.shape[2:])


def _texts(
    name: str, episodes: Sequence[Episode], prompt: Prompt, pieces: Callable[[str], Sequence[int]] | None
) -> NDArray[np.int32]:
    """Tokens of each episode's text prompt; raises GatoError where an instruction changes within an episode."""
    if prompt.kind != "text":
        return np.zeros((len(episodes), 0), np.int32)
    assert pieces is not None
    texts = [prompt.text] * len(episodes)
    for number, episode in enumerate(episodes if prompt.instruction is not None else ()):
        said = episode.observations[str(prompt.instruction)][:-1]
        for step in np.flatnonzero(said != said[0]):
            raise GatoError(f"{name}: seed {episode.seed}, step {step}: {prompt.changed(said[0], said[step])}")
        texts[number] = said[0]
    try:
        return prompt.encode(texts, pieces)
    except SpaceError as error:
        raise GatoError(f"{name}: seed {episodes[error.row or 0].seed}: {error}") from error


def _tokenize(
    name: str, tokenizer: SpaceTokenizer, patches: "_Distinct", episode: Episode
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int16]]:
    """Rows, labels, places of patches, and value groups; the final observation leads to no action and is left out."""
    try:
        seen = tokenizer.encode_observations({k: v[:-1] for k, v in episode.observations.items()})
        actions = tokenizer.encode_actions(episode.actions)
        labels = actions if episode.labels is None else tokenizer.encode_actions(episode.labels)
    except SpaceError as error:
        raise GatoError(f"{name}: seed {episode.seed}, step {error.row}: {error}") from error
    value_groups = seen.value_groups[:, :, : tokenizer.widest].copy()
    # Action tokens that end with their timestep are read by its own action alone, which is the expert's.
    read = labels if tokenizer.layout.hides_actions else actions
    return tokenizer.timesteps(seen.tokens, read), labels, patches.places(seen.patches), value_groups


class _Distinct:
    """Patches, each once, in the order in which they came."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def places(self, patches: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Where [B, k, 16, 16, 4] are among all: [B, k]."""
        if not patches.size:
            return np.zeros(patches.shape[:2], np.int32)
        found, inverse = distinct(flat(patches))
        known = self._known
        at = np.array([known.setdefault(patch.tobytes(), len(known)) for patch in found], np.int32)
        return at[inverse].reshape(patches.shape[:2])

    def all(self) -> NDArray[np.uint8]:
        """[k, 16, 16, 4]."""
        return np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, *NO_PATCHES.shape[1:])
