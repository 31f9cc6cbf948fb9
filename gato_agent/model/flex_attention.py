"""Attention of whole windows in training by PyTorch's FlexAttention, compiled by Triton, for CUDA devices.

It computes what the blocks of `attention` do: blocks of keys outside an episode or the context are not read, and
rotation is compiled with it. Its speed is not measured.
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
OPTIONS: Any = {"FORCE_USE_FLEX_ATTENTION": True}  # and not the kernel for decoding, where windows are short
SIZES = (16, 32, 64, 128, 256)  # of heads

_log = logging.getLogger(__name__)


class Look(NamedTuple):
    """One of the two ways in which keys are looked at."""

    angles: Angles  # of the queries
    mask: flex.BlockMask


class Flex(NamedTuple):
    """`Visibility` of windows as block masks; made once a pass, for all layers.

    Recent keys, which without prompts are all, come first. What queries far from a prompt read of it, with other
    angles, is a second softmax; both are weighed by their sums.
    """

    near: Look
    far: Look | None = None

    @classmethod
    def of(cls, config: GatoConfig, visibility: Visibility, dtype: torch.dtype = torch.float32) -> Self:
        """Block masks and angles of a dtype."""
        position, _, first, until, prefix_first, prefix_end = visibility
        place = torch.arange(first.shape[1], device=first.device).expand(first.shape)
        near = Look(angles_of(position, config.head_size, dtype), block_mask(first, place + 1, until))
        if prefix_first is None or prefix_end is None:
            return cls(near)
        clamped = angles_of(position.clamp(max=config.context - 1), config.head_size, dtype)
        return cls(near, Look(clamped, block_mask(prefix_first, prefix_end, until)))

    def attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [batch, length, 3, heads, size], not yet turned -> [batch, length, heads, size]."""
        return _compiled(_attend)(qkv, self.near, self.far)


def block_mask(first: Tensor, last: Tensor, until: Tensor) -> flex.BlockMask:
    """Query q attends to key k where first[q] <= k < last[q] and q <= until[k]; all are [batch, length].

    What `create_block_mask` makes, without the scores' size in memory.
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
    """How many blocks of keys each block of queries reads, and which, before those that it does not: with one head."""
    blocks = blocks.unsqueeze(1).int()
    return blocks.sum(3, dtype=torch.int32), blocks.argsort(dim=3, descending=True, stable=True).int()


def _attend(qkv: Tensor, near: Look, far: Look | None) -> Tensor:
    """See `Flex.attend`."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [batch, heads, length, size]
    k = rotate(k, *near.angles).to(v.dtype)

    def look(how: Look, more: Any = None) -> Any:
        turned = rotate(q, *how.angles).to(v.dtype)
        return flex.flex_attention(turned, k, v, block_mask=how.mask, kernel_options=OPTIONS, return_aux=more)

    if far is None:
        return look(near).transpose(1, 2)  # type: ignore[no-any-return]
    (y, here), (other, there) = (look(how, flex.AuxRequest(lse=True)) for how in (near, far))
    # Every query sees a key that is near. Where it sees none from afar, the logarithm of the sum there is -inf, and the
    # share 0, as are all gradients.
    share = torch.sigmoid(there.lse - here.lse).unsqueeze(3)
    return torch.lerp(y.to(share.dtype), other.to(share.dtype), share).to(v.dtype).transpose(1, 2)


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Once for each shape of batches, of which a run has one or two; a graph in pieces would not be compiled at all."""
    return torch.compile(function, fullgraph=True, dynamic=False)


@cache
def available() -> bool:
    """Whether it can be compiled here; says so once if not."""
    able = has_triton() and hasattr(flex, "AuxRequest")
    if not able:
        _log.warning("training without FlexAttention, which is slower: it needs PyTorch 2.9 and what Triton supports")
    return able


def fits(config: GatoConfig, device: str) -> bool:
    """Whether models of this shape can use it on a device: on CUDA, those of all named sizes."""
    return device == "cuda" and config.head_size in SIZES and available()
