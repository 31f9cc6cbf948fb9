"""Sliding-window attention inside episodes, in blocks of queries that read little more than what they may see."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.spaces import PAD

QUERIES = 128  # per block: measured on CPU, where smaller blocks waste less on masked keys and larger ones start faster


class Pinned(NamedTuple):
    """Keys of a prompt that a block of queries sees from however far, as if it stood at the end of the context."""

    keys: slice
    mask: Tensor  # [lanes, 1, queries, keys], added to the scores


class Rows(NamedTuple):
    """Which keys one block of queries reads, and which of them it may see."""

    lanes: slice
    queries: slice
    keys: slice
    mask: Tensor  # [lanes or 1, 1, queries, keys], added to the scores: 0, or -inf where a key is not seen
    pinned: Pinned | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, rows: list[Rows], far: Tensor | None = None) -> Tensor:
    """Softmax attention of q over k and v [batch, heads, length, size], as `rows` say, which hold each query once.

    Rows stand lane by lane. `far` are the queries that pinned keys are compared with.
    """
    lanes: dict[int, list[Tensor]] = {}
    for row in rows:
        lanes.setdefault(row.lanes.start or 0, []).append(_block(q, far, k, v, row))
    parts = [torch.cat(parts, dim=2) if len(parts) > 1 else parts[0] for parts in lanes.values()]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _block(q: Tensor, far: Tensor | None, k: Tensor, v: Tensor, row: Rows) -> Tensor:
    at, i, j, mask, pinned = row
    if pinned is None or far is None:
        return F.scaled_dot_product_attention(q[at, :, i], k[at, :, j], v[at, :, j], mask)
    near, from_afar = q[at, :, i] @ k[at, :, j].mT, far[at, :, i] @ k[at, :, pinned.keys].mT
    scores = torch.cat((from_afar, near), dim=3) * q.shape[3] ** -0.5 + torch.cat((pinned.mask, mask), dim=3)
    shares = scores.softmax(3, torch.promote_types(scores.dtype, torch.float32)).to(v.dtype)
    if pinned.keys.stop == j.start:  # neighbours, as in a cache, need not be copied
        return torch.matmul(shares, v[at, :, pinned.keys.start : j.stop])
    return torch.matmul(shares, torch.cat((v[at, :, pinned.keys], v[at, :, j]), dim=2))


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, else -inf: made once a pass, where a bool mask would be converted in each layer."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def banded_rows(
    tokens: Tensor, segment: Tensor | None, context: int, dtype: torch.dtype = torch.float32
) -> Iterator[Rows]:
    """Who sees whom in whole sequences without prompts.

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
        yield Rows(slice(None), queries, keys, additive((mask | (distance == 0)).unsqueeze(1), dtype))


def pinned_rows(
    tokens: Tensor, segment: Tensor | None, index: Tensor, pinned: Tensor, context: int,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Rows]:  # fmt: skip
    """Who sees whom where episodes begin with prompts of P tokens, which leave less of the context to all else.

    Token i sees token j of its own segment where j <= i and i - j < context - P or j < P, by their index there. Up to
    an index of `context` all that is seen is among a block's keys; beyond, the prompt is fetched from afar. A PAD is
    seen by itself alone.

    Args:
        tokens: integer [batch, length].
        segment: integer [batch, length], or None where each row is one.
        index: integer [batch, length], rising in each segment.
        pinned: integer [batch, length], the P of each token's segment.
        context: attention span in tokens.
        dtype: of the masks.
    """
    place = torch.arange(tokens.shape[1], device=tokens.device)
    segment = torch.zeros_like(tokens) if segment is None else segment
    first = torch.where(torch.diff(segment, dim=1, prepend=segment[:, :1]) != 0, place, 0).cummax(dim=1).values
    prompt, known = index < pinned, tokens != PAD
    far = (index >= context) & (pinned > 0)
    for lane in range(len(tokens)):
        at, ends = slice(lane, lane + 1), _ends(far[lane])
        for start, end in zip([0, *ends], ends, strict=False):
            queries, beginning = slice(start, end), int(first[lane, start])
            keys = slice(max(beginning, start - context + 1), end)
            near = index[lane, queries, None] - index[lane, None, keys] < context - pinned[lane, queries, None]
            fetched = None
            if far[lane, start]:
                said = slice(beginning, beginning + int(prompt[lane, beginning:start].sum()))
                shown = known[lane, said].expand(end - start, -1)
                fetched = Pinned(said, additive(shown[None, None], dtype)) if shown.any() else None
            else:
                near = near | prompt[lane, None, keys]
            same = segment[lane, queries, None] == segment[lane, None, keys]
            before = place[queries, None] - place[None, keys]
            seen = near & same & known[lane, None, keys] & (before >= 0) | (before == 0)
            yield Rows(at, queries, keys, additive(seen[None, None], dtype), fetched)


def _ends(far: Tensor) -> list[int]:
    """Where one lane's blocks end: each is of near or of far queries alone, and of `QUERIES` at most."""
    changes = (torch.nonzero(torch.diff(far)).flatten() + 1).tolist()
    return sorted({*range(QUERIES, len(far), QUERIES), *changes, len(far)})
