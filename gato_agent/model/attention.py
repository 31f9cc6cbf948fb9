"""Sliding-window attention by PyTorch's operators, in blocks of queries that read few masked keys."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.model.rope import Angles, angles_of
from gato_agent.model.visibility import Visibility

QUERIES = 128  # per block: measured on CPU, where smaller blocks waste less on masked keys and larger ones start faster


class PrefixKeys(NamedTuple):
    """Prompt keys that a block of queries attends to from afar, as if the queries were at the end of the context."""

    keys: slice
    mask: Tensor  # [batch, 1, queries, keys], added to the scores


class QueryBlock(NamedTuple):
    """One block of queries and the keys that it reads."""

    queries: slice
    keys: slice
    mask: Tensor  # [batch, 1, queries, keys], added to the scores: 0, or -inf where a key is not visible
    prefix: PrefixKeys | None = None


class AttentionInputs(NamedTuple):
    """Rotary angles and attention masks of one forward pass."""

    blocks: list[QueryBlock]
    angles: Angles
    prefix_angles: Angles | None = None  # of queries as they attend to prompt keys from afar

    @classmethod
    def of(cls, visibility: Visibility, context: int, head_size: int, dtype: torch.dtype) -> "AttentionInputs":
        """Inputs of a pass over whole sequences."""
        angles = angles_of(visibility.position, head_size, dtype)
        far = angles_of(visibility.position.clamp(max=context - 1), head_size, dtype) if visibility.far else None
        return cls(list(query_blocks(visibility, dtype)), angles, far)


def query_blocks(visibility: Visibility, dtype: torch.dtype = torch.float32) -> Iterator[QueryBlock]:
    """Blocks of at most `QUERIES` queries, with additive masks of a dtype."""
    length = visibility.first.shape[1]
    for start in range(0, length, QUERIES):
        queries = slice(start, min(start + QUERIES, length))
        # To ask a GPU where keys begin would be to wait for it.
        begin_keys = int(visibility.first[:, queries].min()) if visibility.first.device.type == "cpu" else 0
        keys, prefix = slice(begin_keys, queries.stop), None
        if visibility.prefix_first is not None and visibility.prefix_end is not None:
            begin, end = visibility.prefix_first[:, queries], visibility.prefix_end[:, queries]
            if (begin < end).any():
                shown = slice(int(begin[begin < end].min()), int(end.max()))
                prefix = PrefixKeys(shown, additive(visibility.prefix(queries, shown).unsqueeze(1), dtype))
        yield QueryBlock(queries, keys, additive(visibility.recent(queries, keys).unsqueeze(1), dtype), prefix)


def attend(q: Tensor, k: Tensor, v: Tensor, blocks: list[QueryBlock], far: Tensor | None = None) -> Tensor:
    """Softmax attention of q over k and v [batch, heads, length, size], each query in one of the blocks.

    `far` are the queries that prompt keys are compared with.
    """
    parts = [_block(q, far, k, v, block) for block in blocks]
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def _block(q: Tensor, far: Tensor | None, k: Tensor, v: Tensor, block: QueryBlock) -> Tensor:
    i, j, mask, prefix = block
    if prefix is None or far is None:
        return F.scaled_dot_product_attention(q[:, :, i], k[:, :, j], v[:, :, j], mask)
    near, from_afar = q[:, :, i] @ k[:, :, j].mT, far[:, :, i] @ k[:, :, prefix.keys].mT
    scores = torch.cat((from_afar, near), dim=3) * q.shape[3] ** -0.5 + torch.cat((prefix.mask, mask), dim=3)
    shares = scores.softmax(3, torch.promote_types(scores.dtype, torch.float32)).to(v.dtype)
    if prefix.keys.stop == j.start:  # neighbours, as in a cache, need not be copied
        return torch.matmul(shares, v[:, :, prefix.keys.start : j.stop])
    return torch.matmul(shares, torch.cat((v[:, :, prefix.keys], v[:, :, j]), dim=2))


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is visible, else -inf: made once a pass, where a bool mask would be converted in each layer."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
