"""Random windows of episodes with prompts, PADs and hidden actions, and the attention rule over all their pairs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gato_agent.model.rope import angles_of, rotate
from gato_agent.model.visibility import Visibility
from gato_agent.tokens.space_tokenizer import PAD
from gato_agent.tokens.timestep_layout import ALWAYS


class Sequences(NamedTuple):
    """Windows of episodes, of which all tensors are int64 [batch, length].

    Attributes:
        tokens: ids or PAD.
        segment: episode.
        index: position in the episode.
        prefix_len: tokens of the prompt that the episode begins with, those that are left out included.
        step: timestep of the episode; -1 in a prompt.
        hidden: 1 for separator and action tokens, which are keys within their own timestep only.
    """

    tokens: Tensor
    segment: Tensor
    index: Tensor
    prefix_len: Tensor
    step: Tensor
    hidden: Tensor

    def until(self) -> Tensor:
        """Place of the last token that may attend to each."""
        until = torch.full_like(self.tokens, ALWAYS)
        for row, hidden in enumerate(self.hidden):
            timestep = self.segment[row] * 2**20 + self.step[row]
            for place in hidden.nonzero().flatten().tolist():
                until[row, place] = (timestep == timestep[place]).nonzero().max()
        return until

    def arguments(self) -> dict[str, Any]:
        """Arguments of `Gato.forward` besides tokens; those without effect are None, as in batches."""
        until = self.until() if self.hidden.any() else None
        index = self.index if until is not None or self.prefix_len.any() else None
        prefix_len = self.prefix_len if self.prefix_len.any() else None
        return {"segment": self.segment, "index": index, "prefix_len": prefix_len, "until": until}

    def visibility(self, context: int) -> Visibility:
        """The rule as attention backends read it."""
        return Visibility.of(self.tokens, context, **self.arguments())

    def visible(self, context: int) -> tuple[Tensor, Tensor]:
        """Pairs of query and key by the attention rule, bool [batch, length, length]: recent and prompt keys.

        A query attends to itself, and to keys at or before its place that are of its episode and no PAD: those of the
        last `context - prefix_len` positions and those of the prompt, but of hidden tokens to those of its timestep.
        From positions of `context` on, a prompt is beyond the window.
        """
        distance = self.index[:, :, None] - self.index[:, None]
        place = torch.arange(self.tokens.shape[1])
        same = (self.segment[:, :, None] == self.segment[:, None]) & (place[:, None] >= place)
        shown = same & (self.tokens != PAD)[:, None]
        shown &= ~self.hidden.bool()[:, None] | (self.step[:, :, None] == self.step[:, None])
        recent = shown & (distance < context - self.prefix_len[:, :, None])
        prompt = shown & (self.step == -1)[:, None] & ~recent
        beyond = prompt & (self.index >= context)[:, :, None]
        recent |= prompt & ~beyond
        return recent | torch.eye(len(place), dtype=torch.bool), beyond


def random_sequences(
    seed: int, length: int, *, prompts: Sequence[int] = (0,), hidden: int = 0, rows: int = 2, whole: bool = False
) -> Sequences:
    """Windows full of episodes of all lengths.

    Args:
        seed: of all choices.
        length: of a window.
        prompts: tokens that a prompt may have, of which some are left out.
        hidden: separator and action tokens of a timestep, at most.
        rows: windows.
        whole: True for windows of one episode each.
    """
    rng = np.random.default_rng(seed)
    windows = [_window(rng, length, prompts, hidden, whole) for _ in range(rows)]
    columns = np.stack(windows, axis=1)
    tokens = rng.integers(1, 500, columns.shape[1:])
    tokens[rng.random(tokens.shape) < 0.08] = PAD
    if rng.random() < 0.3:
        tokens[(columns[3] == -1) & (columns[0] % 2 == 0)] = PAD  # prompts of nothing else
    return Sequences(torch.from_numpy(tokens), *torch.from_numpy(columns))


def _window(
    rng: np.random.Generator, length: int, prompts: Sequence[int], hidden: int, whole: bool
) -> np.ndarray:  # fmt: skip
    """Rows segment, index, prefix_len, step and hidden of one window: [5, length]."""
    parts: list[np.ndarray] = []
    while sum(part.shape[1] for part in parts) < length:
        prompt, observed, more = int(rng.choice(prompts)), int(rng.integers(1, 8)), int(rng.integers(0, hidden + 1))
        steps = length if whole else int(rng.choice([1, 3, 20, 60]))
        present = np.flatnonzero(rng.random(prompt) < 0.8)
        step, place = (part.ravel() for part in np.indices((steps, observed + more)))
        index = np.concatenate((present, prompt + step * observed + place))
        step = np.concatenate((np.full(len(present), -1), step))
        of_action = np.concatenate((np.zeros(len(present), np.int64), place >= observed))
        number = np.full(len(index), len(parts))
        parts.append(np.stack((number, index, np.full(len(index), prompt), step, of_action)))
    return np.concatenate(parts, axis=1)[:, :length]


def attention(qkv: Tensor, shown: Sequences, context: int) -> Tensor:
    """Attention by every score: [batch, length, 3, heads, size] -> [batch, length, heads, size]."""
    size = qkv.shape[4]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    k = rotate(k, *angles_of(shown.index, size, k.dtype))
    recent_scores = rotate(q, *angles_of(shown.index, size, q.dtype)) @ k.mT
    prompt_scores = rotate(q, *angles_of(shown.index.clamp(max=context - 1), size, q.dtype)) @ k.mT
    recent, prompt = (pairs[:, None] for pairs in shown.visible(context))
    scores = torch.where(recent, recent_scores, torch.where(prompt, prompt_scores, -torch.inf))
    return torch.matmul((scores * size**-0.5).softmax(-1), v).transpose(1, 2)
