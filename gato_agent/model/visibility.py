"""Attention rule of whole sequences: the keys that each query may attend to, as integer tensors.

    query q attends to key k  <=>  (first[q] <= k <= q  or  prefix_first[q] <= k < prefix_end[q])  and  q <= until[k]

q and k are places in the sequence. `until` ends the visibility of a key: a PAD is visible to itself alone, and an
action token that later timesteps may not see ends with its own timestep. Every attention backend reads these tensors.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from gato_agent.tokens.space_tokenizer import PAD
from gato_agent.tokens.timestep_layout import ALWAYS


class Visibility(NamedTuple):
    """Positions of tokens and the keys that each may attend to, for a batch of sequences.

    Attributes:
        position: int64 [batch or 1, length], position in the episode, which rotary angles depend on.
        segment: int64 [batch, length], episode of each token.
        first: int64 [batch, length], place of the first recent key of a query.
        until: int64 [batch, length], place of the last query of a key.
        prefix_first: int64 [batch, length], place of the first prompt token of a query whose window no longer holds the
            prompt, and which attends to it as if at the last position of the context; None if there are none.
        prefix_end: int64 [batch, length], one past the last of these; both are 0 for other queries.
    """

    position: Tensor
    segment: Tensor
    first: Tensor
    until: Tensor
    prefix_first: Tensor | None = None
    prefix_end: Tensor | None = None

    @classmethod
    def of(
        cls, tokens: Tensor, context: int, *, segment: Tensor | None = None, index: Tensor | None = None,
        prefix_len: Tensor | None = None, until: Tensor | None = None,
    ) -> Self:  # fmt: skip
        """Visibility with a sliding window of `context` positions within episodes.

        Args:
            tokens: integer [batch, length].
            context: attention span in positions; a prompt of P tokens leaves context - P of them to all else.
            segment: integer [batch, length], episode of each token, each a run of neighbours; None for one a row.
            index: integer [batch, length], position in the episode; None for the place in the row.
            prefix_len: integer [batch, length or 1], tokens of the prompt that the episode begins with; None for none.
            until: integer [batch, length], place of the last token that may attend to each; None for no limit.
        """
        place = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        segment = torch.zeros_like(tokens) if segment is None else segment
        until = torch.full_like(tokens, ALWAYS) if until is None else until
        until = torch.where(tokens == PAD, place, until)
        position = place if index is None else index.expand(tokens.shape)
        # Runs rise with the place, so that one sorted search finds a position in its own episode.
        runs = (torch.diff(segment, dim=1, prepend=segment[:, :1]) != 0).cumsum(1) << 32
        index_of_key = runs + torch.where(tokens == PAD, ALWAYS, position)
        keys = (
            index_of_key.flip(1).cummin(1).values.flip(1).contiguous()
        )  # rising, though positions step back after actions
        prefix = runs.new_zeros(()) if prefix_len is None else prefix_len
        # Up to a position of `context` a query attends to all before it, the prompt among them.
        oldest = torch.where(position < context, 0, position - context + prefix + 1)
        first = torch.searchsorted(keys, (runs + oldest).contiguous())
        angles = place[:1] if index is None else index
        reads_prefix = (position >= context) & (prefix > 0)
        if prefix_len is None or not reads_prefix.any():  # waits for the device once per pass, not once per layer
            return cls(angles, segment, first, until)
        begin, end = (torch.searchsorted(keys, (runs + at).contiguous()) for at in (0, prefix))
        return cls(
            angles, segment, first, until, torch.where(reads_prefix, begin, 0), torch.where(reads_prefix, end, 0)
        )

    @property
    def reads_prefix(self) -> bool:
        """True if some query attends to prompt tokens beyond its window."""
        return self.prefix_first is not None

    def recent(self, queries: slice, keys: slice) -> Tensor:
        """True where a query attends to a recent key: bool [batch, queries, keys]."""
        q, k = (torch.arange(self.first.shape[1], device=self.first.device)[part] for part in (queries, keys))
        within = (self.first[:, queries, None] <= k) & (k <= q[:, None])
        return within & (q[:, None] <= self.until[:, None, keys])

    def prefix(self, queries: slice, keys: slice) -> Tensor:
        """True where a query attends to a prompt token beyond its window: bool [batch, queries, keys]."""
        assert self.prefix_first is not None
        assert self.prefix_end is not None
        q, k = (torch.arange(self.first.shape[1], device=self.first.device)[part] for part in (queries, keys))
        within = (self.prefix_first[:, queries, None] <= k) & (k < self.prefix_end[:, queries, None])
        return within & (q[:, None] <= self.until[:, None, keys])
