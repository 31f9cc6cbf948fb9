"""Sliding-window attention of training by PyTorch's FlexAttention, compiled by Triton, for CUDA devices.

It computes what `SdpaAttention` computes: blocks of keys outside an episode or the context are not read, and rotation
is compiled with it.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import flex_attention as flex
from torch.utils._triton import has_triton

from gato_agent.model.config import GatoConfig
from gato_agent.model.rope import Angles, angles_of, rotate
from gato_agent.model.visibility import Visibility

BLOCK = 128  # queries and keys that the kernels skip, or read without a mask, together: a multiple of their tiles
OPTIONS: Any = {"FORCE_USE_FLEX_ATTENTION": True}  # the kernel for decoding would be chosen for short windows
SIZES = (16, 32, 64, 128, 256)  # of heads

_log = logging.getLogger(__name__)


class MaskedQueries(NamedTuple):
    """Rotary angles of the queries, and the keys that they attend to at these angles."""

    angles: Angles
    mask: flex.BlockMask


class FlexAttention(NamedTuple):
    """A `Visibility` as block masks; an `AttentionBackend`.

    Prompt keys beyond the window are compared with queries of other angles, in a second softmax. Both results are
    weighted by their sums.

    Attributes:
        recent: keys of the sliding window.
        prefix: prompt keys beyond it; None if no query reads any.
    """

    recent: MaskedQueries
    prefix: MaskedQueries | None = None

    @classmethod
    def prepare(cls, config: GatoConfig, visibility: Visibility, dtype: torch.dtype = torch.float32) -> Self:
        """See `AttentionBackend`."""
        position, _, first, until, prefix_first, prefix_end = visibility
        place = torch.arange(first.shape[1], device=first.device).expand(first.shape)
        recent = MaskedQueries(angles_of(position, config.head_size, dtype), block_mask(first, place + 1, until))
        if prefix_first is None or prefix_end is None:
            return cls(recent)
        angles = angles_of(position.clamp(max=config.context - 1), config.head_size, dtype)
        return cls(recent, MaskedQueries(angles, block_mask(prefix_first, prefix_end, until)))

    def attend(self, qkv: Tensor) -> Tensor:
        """See `AttentionBackend`."""
        return _compiled(_attend)(qkv, self.recent, self.prefix)


def block_mask(first: Tensor, last: Tensor, until: Tensor) -> flex.BlockMask:
    """Block mask in which query q attends to key k where first[q] <= k < last[q] and q <= until[k].

    All three are [batch, length]. It equals that of `create_block_mask`, in memory far below the size of the scores.
    """
    length = first.shape[1]
    first, last, until = first.int(), last.int(), until.int()

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (first[b, q] <= k) & (k < last[b, q]) & (q <= until[b, k])

    def blocks(x: Tensor, fill: int) -> Tensor:
        """[batch, length, ...] -> [batch, blocks, BLOCK, ...]."""
        padding = (0, 0) * (x.ndim - 2) + (0, -length % BLOCK)
        return F.pad(x, padding, value=fill).reshape(len(x), -1, BLOCK, *x.shape[2:])

    begin = torch.arange(0, length, BLOCK, device=first.device)
    end, first_, last_ = begin + BLOCK, first.unsqueeze(2), last.unsqueeze(2)
    ends = blocks(until, -1)  # [batch, blocks of keys, BLOCK]
    some = blocks((first_ < end) & (begin < last_), 0).any(2)  # [batch, blocks of queries, blocks of keys]
    some &= begin[:, None] <= ends.amax(2)[:, None, :]
    every = blocks((first_ <= begin) & (end <= last_), 0).all(2) & (end[:, None] <= ends.amin(2)[:, None, :] + 1)
    return flex.BlockMask.from_kv_blocks(
        *_ordered(some & ~every), *_ordered(some & every), BLOCK_SIZE=BLOCK, mask_mod=visible,
        seq_lengths=(length, length),
    )  # fmt: skip


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Number and indices of the key blocks that each query block reads, for one head; unread blocks come last."""
    blocks = blocks.unsqueeze(1).int()
    return blocks.sum(3, dtype=torch.int32), blocks.argsort(dim=3, descending=True, stable=True).int()


def _attend(qkv: Tensor, recent: MaskedQueries, prefix: MaskedQueries | None) -> Tensor:
    """See `FlexAttention.attend`."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [batch, heads, length, size]
    k = rotate(k, *recent.angles).to(v.dtype)

    def attend(queries: MaskedQueries, auxiliary: Any = None) -> Any:
        rotated = rotate(q, *queries.angles).to(v.dtype)
        return flex.flex_attention(
            rotated, k, v, block_mask=queries.mask, kernel_options=OPTIONS, return_aux=auxiliary
        )  # fmt: skip

    if prefix is None:
        return attend(recent).transpose(1, 2)  # type: ignore[no-any-return]
    (y, recent_sums), (prefix_y, prefix_sums) = (
        attend(queries, flex.AuxRequest(lse=True)) for queries in (recent, prefix)
    )
    # Every query attends to a recent key. Without a prompt key its log-sum there is -inf, so that the prompt's weight
    # and all gradients through it are 0.
    weight = torch.sigmoid(prefix_sums.lse - recent_sums.lse).unsqueeze(3)
    return torch.lerp(y.to(weight.dtype), prefix_y.to(weight.dtype), weight).to(v.dtype).transpose(1, 2)


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The compiled function, one graph for each shape of batches; FlexAttention in a broken graph runs uncompiled."""
    return torch.compile(function, fullgraph=True, dynamic=False)


@cache
def available() -> bool:
    """True if this machine can compile it; logs one warning if not."""
    supported = has_triton() and hasattr(flex, "AuxRequest")
    if not supported:
        _log.warning(
            "training without FlexAttention, which is slower: it needs PyTorch 2.9 and a GPU that Triton supports"
        )
    return supported


def fits(config: GatoConfig, device: str) -> bool:
    """True if models of this shape can use it on a device: on CUDA, those of all named sizes."""
    return device == "cuda" and config.head_size in SIZES and available()
