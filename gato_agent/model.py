"""The transformer: pre-norm blocks of sliding-window attention and GEGLU, one tied table at both ends."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gato_agent.attention import Pinned, Rows, additive, attend, banded_rows, pinned_rows
from gato_agent.band import Band
from gato_agent.cache import Cache, Pinning
from gato_agent.config import GatoConfig
from gato_agent.embedding import Embedding
from gato_agent.flex import Flex
from gato_agent.initialise import NoInitialisation, initialise
from gato_agent.rotary import Angles, angles_of, rotate
from gato_agent.spaces import BINS, POSITIONS

ACTION_WIDTH = 64  # of the state from which one of several action tokens is predicted


class Places(NamedTuple):
    """Where tokens are, and who sees whom."""

    rows: list[Rows]
    angles: Angles
    clamped: Angles | None = None  # of queries as they look at pinned keys from afar


class Attention(nn.Module):
    """Causal self-attention over the last `context` tokens."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, places: Places | Band | Flex, cache: "CachedLayer | None") -> Tensor:
        """[batch, length, width] -> the same."""
        b, n, d = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, d // self.heads)
        if not isinstance(places, Places):
            return self.out(places.attend(qkv).view(b, n, d))  # type: ignore[no-any-return]
        qkv = qkv.permute(2, 0, 3, 1, 4)  # [3, b, h, n, d/h]
        q, k = rotate(qkv[:2], *places.angles)
        v = qkv[2].to(q.dtype)
        if cache is not None:
            k, v = cache.update(k, v)  # [b, h, slots, d/h], perhaps of another dtype
            q = q.to(k.dtype)
        far = None if places.clamped is None else rotate(qkv[0], *places.clamped).to(q.dtype)
        y = attend(q, k, v, places.rows, far).transpose(1, 2).reshape(b, n, d)
        return self.out(y.to(x.dtype) if cache is not None else y)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020): half of the hidden units gate the other half."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.feed_forward, bias=False)
        self.out = nn.Linear(config.feed_forward // 2, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        value, gate = self.hidden(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))  # type: ignore[no-any-return]


class StochasticDepth(nn.Module):
    """Skips a sub-layer for a whole sequence with some probability, in training only (Huang et al. 2016).

    Attributes:
        dropout: probability that a single value is left out too, which fine-tuning sets.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.keep, self.dropout = 1 - probability, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """[batch, ...] -> the same, zero for dropped sequences and scaled for the others."""
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        if not self.training or self.keep == 1:
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1)
        return x * (torch.rand(shape, device=x.device) < self.keep) / self.keep


class Block(nn.Module):
    """Attention, then feed-forward, each on the normalised stream and added back to it."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config)
        self.drop = StochasticDepth(config.stochastic_depth)

    def forward(self, x: Tensor, places: Places | Band | Flex, cache: "CachedLayer | None") -> Tensor:
        """[batch, length, width] -> the same."""
        x = x + self.drop(self.attention(self.attention_norm(x), places, cache))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]


class CachedLayer(NamedTuple):
    """The cache as one layer sees it."""

    cache: Cache | Pinning
    k: Tensor  # what is held of this layer
    v: Tensor

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store this pass's keys and values; return all that are seen."""
        return self.cache.update(self.k, k), self.cache.update(self.v, v)


class ActionHeads(nn.Module):
    """One token's state -> a narrow one for each of the action tokens that it predicts, by a matrix of its own.

    What `PackEmbedding` does with values, the other way round: these too have a table of their own, without text.
    """

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.split = nn.ModuleList(
            nn.Linear(config.width, ACTION_WIDTH, bias=False) for _ in range(config.parallel_actions)
        )
        self.table = nn.Embedding(2 * BINS, ACTION_WIDTH)


class Gato(nn.Module):
    """Tokens and patches in, hidden states out; `predicting` and `logits` turn those into scores of ids.

    Attributes:
        compiled: whether whole windows are trained on with compiled attention.
    """

    compiled = False

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.actions = ActionHeads(config) if config.parallel_actions else None
        if not self.norm.weight.is_meta:
            initialise(self)

    @classmethod
    def skeleton(cls, config: GatoConfig) -> "Gato":
        """A model without memory or values for its weights, to be counted or filled from a checkpoint."""
        with torch.device("meta"), NoInitialisation():
            return cls(config)

    def forward(
        self,
        tokens: Tensor,
        patches: Tensor | None = None,
        *,
        local: Tensor | None = None,
        intervals: Tensor | None = None,
        segment: Tensor | None = None,
        index: Tensor | None = None,
        pinned: Tensor | None = None,
        packs: Tensor | None = None,
        cache: Cache | Pinning | None = None,
    ) -> Tensor:
        """Run the transformer over whole sequences, or over the next tokens of cached ones.

        Args:
            tokens: integer [batch, length]; ids, PAD (-1: never attended to), PATCH (-2: the next patch) or
                PACK (-3: the next pack).
            patches: uint8 [k, 16, 16, 4], one per PATCH, row-major.
            local: integer [batch, length], position within the observation; -1 (everywhere by default) for none.
            intervals: integer [k, 2, 2], place of each patch in its image; by default each is a whole image.
            segment: integer [batch, length], episode of each token; tokens see their own episode only.
            index: integer [batch, length], place in its episode, rising; by default each row is one from its beginning.
            pinned: integer [batch, length or 1], tokens of the prompt that its episode begins with; by default 0.
            packs: integer [p, pack], one per PACK, row-major.
            cache: holds what came before; `segment` must then be None, each lane being one episode.

        Returns:
            Hidden states [batch, length, width].
        """
        if patches is not None and intervals is None:
            whole = torch.tensor([[0, POSITIONS]] * 2, device=tokens.device)
            intervals = whole.expand(len(patches), 2, 2)
        x = self.embedding(tokens, local, patches, intervals, packs)
        if cache is None:
            places = self._places(tokens, segment, index, pinned, x.dtype)
        else:
            places = self._cached_places(cache, tokens, x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, places, None if cache is None else CachedLayer(cache, cache.k[layer], cache.v[layer]))
        return self.norm(x)  # type: ignore[no-any-return]

    def _places(
        self, tokens: Tensor, segment: Tensor | None, index: Tensor | None, pinned: Tensor | None, dtype: torch.dtype
    ) -> Places | Band | Flex:
        """Of whole sequences."""
        size, context = self.config.head_size, self.config.context
        index = torch.arange(tokens.shape[1], device=tokens.device) if index is None else index
        if self.compiled and self.training and tokens.device.type != "cpu":
            return Flex.of(self.config, tokens, segment, index, pinned, dtype)
        if self.compiled and self.training:
            places = torch.arange(int(index.max()) + 1)
            cos, sin = (x.squeeze(0) for x in angles_of(places, size, torch.float32))
            return Band.of(self.config, tokens, segment, index, pinned, (cos, sin))
        angles = angles_of(index, size, dtype)
        if pinned is None:
            return Places(list(banded_rows(tokens, segment, context, dtype)), angles)
        index, pinned = index.expand(tokens.shape), pinned.expand(tokens.shape)
        rows = list(pinned_rows(tokens, segment, index, pinned, context, dtype))
        far = any(row.pinned for row in rows)
        return Places(rows, angles, angles_of(index.clamp(max=context - 1), size, dtype) if far else None)

    def _cached_places(self, cache: Cache | Pinning, tokens: Tensor, dtype: torch.dtype) -> Places:
        """Of the next tokens of every lane, for which this makes room."""
        index, seen = cache.advance(tokens)
        size, everything, pinned, clamped = self.config.head_size, slice(None), None, None
        kept = cache.k.dtype if isinstance(cache, Cache) else dtype
        if isinstance(cache, Cache) and cache.prompt:
            shown = cache.pinned[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
            pinned = Pinned(slice(0, cache.prompt), additive(shown, kept))
            clamped = angles_of(index.clamp(max=self.config.context - 1), size, dtype)
        rows = Rows(everything, everything, slice(cache.prompt, None), additive(seen, kept), pinned)
        return Places([rows], angles_of(index, size, dtype), clamped)

    def predicting(self, hidden: Tensor, place: int = 0) -> Tensor:
        """States that score a token: as they are, or with `parallel_actions` [..., width] -> [..., ACTION_WIDTH].

        `place` is that of the action token among those that are predicted from the same state.
        """
        return hidden if self.actions is None else self.actions.split[place](hidden)

    def logits(self, states: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """Scores of the ids [low, high), all of them by default: [..., width of a state] -> [..., high - low].

        With `parallel_actions` no text is predicted: all are those from the first bin on.
        """
        rows = self.scored(low, high)
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 could not tell scores apart
            return F.linear(states.to(rows.dtype), rows)

    def scored(self, low: int, high: int | None) -> Tensor:
        """The rows of the table that score the ids [low, high)."""
        if self.actions is None:
            return self.embedding.table.weight[low:high]
        first = self.config.vocabulary.continuous
        return self.actions.table.weight[max(0, low - first) : None if high is None else high - first]
