"""The transformer: pre-norm blocks of sliding-window attention and GEGLU, one tied table at both ends."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gato_agent.cache import Cache
from gato_agent.config import GatoConfig
from gato_agent.embedding import Embedding
from gato_agent.spaces import BINS, PAD, POSITIONS

Angles = tuple[Tensor, Tensor]  # cosine and sine
QUERIES = 128  # per block: measured on CPU, where smaller blocks waste less on masked keys and larger ones start faster


class Rows(NamedTuple):
    """Which keys one block of queries reads, and which of them it may see."""

    queries: slice
    keys: slice
    mask: Tensor  # [batch or 1, 1, queries, keys], added to the scores: 0, or -inf where a key is not seen


def angles_of(index: Tensor, head_size: int, dtype: torch.dtype) -> Angles:
    """Rotary position embedding (Su et al. 2021) by token index.

    Args:
        index: integer [..., length].
        head_size: even; each pair of dimensions turns at a speed of its own.
        dtype: of the result. The angles themselves are float64: an episode may last millions of tokens, and in
            float32 they would drift after thousands.

    Returns:
        Cosine and sine, each [..., 1, length, head_size]; the sine of a pair's first dimension is negated.
    """
    angle = index.unsqueeze(-1) * speeds(head_size, index.device)  # [..., length, head_size / 2]
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1).unsqueeze(-3), torch.cat((-sin, sin), dim=-1).unsqueeze(-3)


@lru_cache
def speeds(head_size: int, device: torch.device) -> Tensor:
    """Radians per token of each pair of dimensions, float64 [head_size / 2]."""
    return 10_000 ** -(torch.arange(0, head_size, 2, device=device, dtype=torch.float64) / head_size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + size/2) of x [..., length, size] by its angle."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class Attention(nn.Module):
    """Causal self-attention over the last `context` tokens."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, angles: Angles, rows: list[Rows], cache: "CachedLayer | None") -> Tensor:
        """[batch, length, width] -> the same; `rows` says who sees whom."""
        b, n, d = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # [3, b, h, n, d/h]
        (q, k), v = rotate(qkv[:2], *angles), qkv[2]
        if cache is not None:
            k, v = cache.update(k, v)  # [b, h, slots, d/h]
        parts = [F.scaled_dot_product_attention(q[:, :, r.queries], k[:, :, r.keys], v[:, :, r.keys], r.mask)
                 for r in rows]  # fmt: skip
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return self.out(y.transpose(1, 2).reshape(b, n, d))  # type: ignore[no-any-return]


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

    def forward(self, x: Tensor, angles: Angles, rows: list[Rows], cache: "CachedLayer | None") -> Tensor:
        """[batch, length, width] -> the same."""
        x = x + self.drop(self.attention(self.attention_norm(x), angles, rows, cache))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]


class CachedLayer(NamedTuple):
    """The cache as one layer sees it."""

    cache: Cache
    layer: int

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store this pass's keys and values; return all that are held."""
        return self.cache.update(self.layer, k, v)


class Gato(nn.Module):
    """Tokens and patches in, hidden states out; `logits` turns those into scores of ids."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        if not self.norm.weight.is_meta:
            initialise(self)

    @classmethod
    def skeleton(cls, config: GatoConfig) -> "Gato":
        """A model without memory or values for its weights, to be counted or filled from a checkpoint."""
        with torch.device("meta"), _NoInitialisation():
            return cls(config)

    def forward(
        self,
        tokens: Tensor,
        patches: Tensor | None = None,
        *,
        local: Tensor | None = None,
        intervals: Tensor | None = None,
        segment: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Run the transformer over whole sequences, or over the next tokens of cached ones.

        Args:
            tokens: integer [batch, length]; ids, PAD (-1: never attended to) or PATCH (-2: the next patch).
            patches: uint8 [k, 16, 16, 4], one per PATCH, row-major.
            local: integer [batch, length], position within the observation; -1 (everywhere by default) for none.
            intervals: integer [k, 2, 2], place of each patch in its image; by default each is a whole image.
            segment: integer [batch, length], episode of each token; tokens see their own episode only.
            cache: holds what came before; `segment` must then be None, each lane being one episode.

        Returns:
            Hidden states [batch, length, width].
        """
        if patches is not None and intervals is None:
            whole = torch.tensor([[0, POSITIONS]] * 2, device=tokens.device)
            intervals = whole.expand(len(patches), 2, 2)
        x = self.embedding(tokens, local, patches, intervals)
        if cache is None:
            index = torch.arange(tokens.shape[1], device=tokens.device)
            rows = list(banded_rows(tokens, segment, self.config.context, x.dtype))
        else:
            index, seen = cache.advance(tokens)
            rows = [Rows(slice(None), slice(None), additive(seen, x.dtype))]
        angles = angles_of(index, self.config.head_size, x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(x, angles, rows, None if cache is None else CachedLayer(cache, layer))
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """Scores of the ids [low, high), all of them by default: [..., width] -> [..., high - low]."""
        return F.linear(hidden, self.embedding.table.weight[low:high])


class _NoInitialisation(TorchFunctionMode):
    """Skips torch.nn.init: on the meta device its random numbers do nothing but import half of torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, else -inf: made once a pass, where a bool mask would be converted in each layer."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def banded_rows(
    tokens: Tensor, segment: Tensor | None, context: int, dtype: torch.dtype = torch.float32
) -> Iterator[Rows]:
    """Who sees whom in whole sequences, in blocks of queries that read little more than what they may see.

    Token i sees token j of its own segment where j <= i and i - j < context. A PAD is seen by itself alone,
    which keeps its softmax defined.
    """
    length = tokens.shape[1]
    index = torch.arange(length, device=tokens.device)
    for start in range(0, length, QUERIES):
        queries, keys = slice(start, start + QUERIES), slice(max(0, start - context + 1), start + QUERIES)
        distance = index[queries, None] - index[None, keys]
        mask = ((distance >= 0) & (distance < context)) & (tokens[:, None, keys] != PAD)
        if segment is not None:
            mask = mask & (segment[:, queries, None] == segment[:, None, keys])
        yield Rows(queries, keys, additive((mask | (distance == 0)).unsqueeze(1), dtype))


def initialise(model: Gato) -> None:
    """Initial weights: tables .02, matrices 1/sqrt(fan-in), what ends a residual branch smaller by depth."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            depth = (2 * model.config.layers) ** -0.5 if name.endswith(".out") else 1.0
            nn.init.normal_(module.weight, std=depth * module.in_features**-0.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    vocabulary = model.config.vocabulary
    with torch.no_grad():
        model.embedding.table.weight[vocabulary.continuous : vocabulary.discrete] = 0.02 * smooth_bins(
            model.config.width
        )


def smooth_bins(width: int) -> Tensor:
    """Initial embeddings of the 1,024 bins, of unit variance: neighbours start alike and so learn from each other.

    Random Fourier features (Rahimi & Recht 2007) of the bin's centre, from one to a hundred waves across [-1, 1].
    """
    value = torch.linspace(-1, 1, BINS).unsqueeze(1)
    waves = 100 ** torch.rand(width)
    return 2**0.5 * torch.cos(torch.pi * waves * value + 2 * torch.pi * torch.rand(width))  # [bins, width]
