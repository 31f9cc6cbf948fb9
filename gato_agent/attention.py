"""Sliding-window attention inside episodes, in blocks of queries that read little more than what they may see."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.spaces import PAD

QUERIES = 128  # per block: measured on CPU, where smaller blocks waste less on masked keys and larger ones start faster

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class Rows(NamedTuple):
    """Which keys one block of queries reads, and which of them it may see."""

    lanes: slice
    queries: slice
    keys: slice
    mask: Tensor  # [lanes or 1, 1, queries, keys], added to the scores: 0, or -inf where a key is not seen


def attend(q: Tensor, k: Tensor, v: Tensor, rows: list[Rows]) -> Tensor:
    """Softmax attention of q over k and v [batch, heads, length, size], as `rows` say, which hold each query once."""
    if len(rows) > 1 and q.device.type == "cpu":
        return _Blocks.apply(q, k, v, rows)  # type: ignore[no-any-return,no-untyped-call]
    parts = [F.scaled_dot_product_attention(q[:, :, r.queries], k[:, :, r.keys], v[:, :, r.keys], r.mask) for r in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class _Blocks(torch.autograd.Function):
    """What `attend` does, with gradients summed in place: autograd would pad each block's to the whole length."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: list[Rows]) -> Tensor:
        """Attend block by block."""
        y, sums = torch.empty_like(q), []
        for at, i, j, mask in rows:
            y[at, :, i], sums_of_block = _forward(q[at, :, i], k[at, :, j], v[at, :, j], attn_mask=mask)
            sums.append(sums_of_block)
        ctx.save_for_backward(q, k, v, y, *sums)
        ctx.rows = rows
        return y

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of q, k and v."""
        (g,), (q, k, v, y, *sums) = gradient, ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (at, i, j, mask), sums_of_block in zip(ctx.rows, sums, strict=True):
            dq[at, :, i], dk_of_block, dv_of_block = _backward(
                g[at, :, i], q[at, :, i], k[at, :, j], v[at, :, j], y[at, :, i], sums_of_block, 0.0, False,
                attn_mask=mask,
            )  # fmt: skip
            dk[at, :, j] += dk_of_block
            dv[at, :, j] += dv_of_block
        return dq, dk, dv, None


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, else -inf: made once a pass, where a bool mask would be converted in each layer."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def banded_rows(
    tokens: Tensor, segment: Tensor | None, context: int, dtype: torch.dtype = torch.float32
) -> Iterator[Rows]:
    """Who sees whom in whole sequences.

    Token i sees token j of its own segment where j <= i and i - j < context. A PAD is seen by itself alone,
    which keeps its softmax defined. On a CPU each lane's blocks start where the segment of their first query does.
    """
    length = tokens.shape[1]
    index = torch.arange(length, device=tokens.device)
    first = torch.zeros(1, length, dtype=torch.int64)  # of each token's segment, per lane
    if segment is not None and tokens.device.type == "cpu":
        change = torch.diff(segment, dim=1, prepend=segment[:, :1]) != 0
        first = torch.where(change, index, 0).cummax(dim=1).values
    for lane, beginnings in enumerate(first[:, ::QUERIES].tolist()):
        at = slice(None) if len(first) == 1 else slice(lane, lane + 1)
        for start, beginning in zip(range(0, length, QUERIES), beginnings, strict=True):
            queries, keys = slice(start, start + QUERIES), slice(max(beginning, start - context + 1), start + QUERIES)
            distance = index[queries, None] - index[None, keys]
            mask = ((distance >= 0) & (distance < context)) & (tokens[at, None, keys] != PAD)
            if segment is not None:
                mask = mask & (segment[at, queries, None] == segment[at, None, keys])
            yield Rows(at, queries, keys, additive((mask | (distance == 0)).unsqueeze(1), dtype))
