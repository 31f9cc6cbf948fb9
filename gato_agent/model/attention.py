"""Attention backends: the interface that all share, and sliding-window attention by PyTorch's operators."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.model.config import GatoConfig
from gato_agent.model.kv_cache import CachedLayer, KVCache, PrefixTokens
from gato_agent.model.rope import Angles, angles_of, rotate
from gato_agent.model.visibility import Visibility

QUERIES = 128  # per block: measured on CPU, where smaller blocks waste less on masked keys and larger ones start faster


class AttentionBackend(Protocol):
    """Attention of one forward pass, prepared once for all layers."""

    @classmethod
    def prepare(cls, config: GatoConfig, visibility: Visibility, dtype: torch.dtype) -> Self:
        """Attention over whole sequences.

        Args:
            config: of the model.
            visibility: the keys that each query attends to.
            dtype: of the hidden states.
        """

    def attend(self, qkv: Tensor) -> Tensor:
        """Attention of one layer.

        Args:
            qkv: queries, keys and values before rotation, [batch, length, 3, heads, head_size].

        Returns:
            [batch, length, heads, head_size]
        """


class PrefixKeys(NamedTuple):
    """Prompt keys beyond the window, scored as if the queries were at the last position of the context."""

    keys: slice
    mask: Tensor  # [batch, 1, queries, keys], added to the scores


class QueryBlock(NamedTuple):
    """One block of queries and the keys that it reads."""

    queries: slice
    keys: slice
    mask: Tensor  # [batch, 1, queries, keys], added to the scores: 0, or -inf where a key is not visible
    prefix: PrefixKeys | None = None


class SdpaAttention(NamedTuple):
    """Blocks of queries for PyTorch's scaled dot-product attention; an `AttentionBackend`.

    Attributes:
        blocks: all queries in order.
        angles: of queries and keys.
        prefix_angles: of queries that attend to prompt keys beyond the window; None if there are none.
        cached: keys and values of the tokens before; None for whole sequences.
    """

    blocks: list[QueryBlock]
    angles: Angles
    prefix_angles: Angles | None = None
    cached: CachedLayer | None = None

    @classmethod
    def prepare(cls, config: GatoConfig, visibility: Visibility, dtype: torch.dtype) -> Self:
        """See `AttentionBackend`."""
        position, size = visibility.position, config.head_size
        angles, prefix_angles = angles_of(position, size, dtype), None
        if visibility.reads_prefix:
            prefix_angles = angles_of(position.clamp(max=config.context - 1), size, dtype)
        return cls(list(query_blocks(visibility, dtype)), angles, prefix_angles)

    @classmethod
    def prepare_cached(
        cls, config: GatoConfig, cache: KVCache | PrefixTokens, tokens: Tensor, dtype: torch.dtype
    ) -> Iterator[Self]:
        """Attention of each layer for the next tokens [env, n] of every environment; reserves their slots."""
        position, visible = cache.reserve(tokens)
        key_dtype, prefix, prefix_angles = cache.key_dtype(dtype), None, None
        if cache.prefix:
            prompt = cache.prefix_visible[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
            prefix = PrefixKeys(slice(0, cache.prefix), additive(prompt, key_dtype))
            prefix_angles = angles_of(position.clamp(max=config.context - 1), config.head_size, dtype)
        block = QueryBlock(slice(None), slice(cache.prefix, None), additive(visible, key_dtype), prefix)
        angles = angles_of(position, config.head_size, dtype)
        # Lazily: with gradients, a layer's view of the cache must not be older than writes of the layers before.
        return (cls([block], angles, prefix_angles, cache.layer(layer)) for layer in range(config.layers))

    def attend(self, qkv: Tensor) -> Tensor:
        """See `AttentionBackend`."""
        parts = qkv.permute(2, 0, 3, 1, 4)  # [3, batch, heads, length, size]
        q, k = rotate(parts[:2], *self.angles)
        v = parts[2].to(q.dtype)
        if self.cached is not None:
            k, v = self.cached.update(k, v)  # [batch, heads, slots, size], perhaps of another dtype
            q = q.to(k.dtype)
        prefix_query = None if self.prefix_angles is None else rotate(parts[0], *self.prefix_angles).to(q.dtype)
        blocks = [_attend_block(q, prefix_query, k, v, block) for block in self.blocks]
        y = (torch.cat(blocks, dim=2) if len(blocks) > 1 else blocks[0]).transpose(1, 2)
        return y if self.cached is None else y.to(qkv.dtype)


def query_blocks(visibility: Visibility, dtype: torch.dtype = torch.float32) -> Iterator[QueryBlock]:
    """Blocks of at most `QUERIES` queries, with additive masks of a dtype."""
    length = visibility.first.shape[1]
    for start in range(0, length, QUERIES):
        queries = slice(start, min(start + QUERIES, length))
        # Reading the first key's place from a GPU would wait for the device.
        begin_keys = int(visibility.first[:, queries].min()) if visibility.first.device.type == "cpu" else 0
        keys, prefix = slice(begin_keys, queries.stop), None
        if visibility.prefix_first is not None and visibility.prefix_end is not None:
            begin, end = visibility.prefix_first[:, queries], visibility.prefix_end[:, queries]
            if (begin < end).any():
                prompt = slice(int(begin[begin < end].min()), int(end.max()))
                prefix = PrefixKeys(prompt, additive(visibility.prefix(queries, prompt).unsqueeze(1), dtype))
        yield QueryBlock(queries, keys, additive(visibility.recent(queries, keys).unsqueeze(1), dtype), prefix)


def _attend_block(q: Tensor, prefix_query: Tensor | None, k: Tensor, v: Tensor, block: QueryBlock) -> Tensor:
    """Softmax attention of one block: [batch, heads, length, size] each -> [batch, heads, queries, size]."""
    i, j, mask, prefix = block
    if prefix is None or prefix_query is None:
        return F.scaled_dot_product_attention(q[:, :, i], k[:, :, j], v[:, :, j], mask)
    recent_scores, prefix_scores = q[:, :, i] @ k[:, :, j].mT, prefix_query[:, :, i] @ k[:, :, prefix.keys].mT
    scores = torch.cat((prefix_scores, recent_scores), dim=3) * q.shape[3] ** -0.5
    scores = scores + torch.cat((prefix.mask, mask), dim=3)
    weights = scores.softmax(3, torch.promote_types(scores.dtype, torch.float32)).to(v.dtype)
    if prefix.keys.stop == j.start:  # adjacent keys, as in a cache, need no copy
        return torch.matmul(weights, v[:, :, prefix.keys.start : j.stop])
    return torch.matmul(weights, torch.cat((v[:, :, prefix.keys], v[:, :, j]), dim=2))


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask: 0 where a key is visible, else -inf. Each layer would convert a bool mask again."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
