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

from gato_agent.config import GatoConfig
from gato_agent.rotary import Angles, angles_of, rotate
from gato_agent.spaces import PAD

BLOCK = 128  # queries and keys that the kernels skip, or read without a mask, together: a multiple of their tiles
OPTIONS: Any = {"FORCE_USE_FLEX_ATTENTION": True}  # and not the kernel for decoding, where windows are short
SIZES = (16, 32, 64, 128, 256)  # of heads

_log = logging.getLogger(__name__)


class Look(NamedTuple):
    """One of the two ways in which keys are looked at."""

    angles: Angles  # of the queries
    mask: flex.BlockMask


class Flex(NamedTuple):
    """Who sees whom in windows, as `banded_rows` and `pinned_rows` say; made once a pass, for all layers.

    Keys that are near, which without prompts are all, are looked at first. What queries far from a prompt see of it,
    turned otherwise, is a second softmax; both are weighed by their sums.
    """

    near: Look
    far: Look | None = None

    @classmethod
    def of(
        cls, config: GatoConfig, tokens: Tensor, segment: Tensor | None, index: Tensor, pinned: Tensor | None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:  # fmt: skip
        """Describe windows.

        Args:
            config: of the model.
            tokens: integer [batch, length].
            segment: integer [batch, length], each a run of neighbours; None for one a window.
            index: integer [batch, length] or [length], place of each token, rising within a segment.
            pinned: integer [batch, length or 1], tokens of the prompt that its segment begins with; None for none.
            dtype: of the angles.
        """
        context, known = config.context, tokens != PAD
        place = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        runs = torch.zeros_like(tokens)
        if segment is not None:
            runs = (torch.diff(segment, dim=1, prepend=segment[:, :1]) != 0).cumsum(1) << 32
        at = place if pinned is None else index.expand(tokens.shape)
        prompt = runs.new_zeros(()) if pinned is None else pinned
        keys = (runs + at).contiguous()  # in the order of the window, so that what is seen is from one place to another
        # Up to an index of `context` a query sees all before it: what is near ends where the prompt begins.
        oldest = torch.where(at < context, 0, at - context + prompt + 1)
        near = Look(
            angles_of(index, config.head_size, dtype),
            block_mask(torch.searchsorted(keys, runs + oldest, out_int32=True), (place + 1).int(), known),
        )
        far = (at >= context) & (prompt > 0)
        if pinned is None or not far.any():  # asked here: a device is waited for once a pass, and not in each layer
            return cls(near)
        first, last = (torch.searchsorted(keys, runs + end, out_int32=True) for end in (0, prompt))
        clamped = angles_of(index.clamp(max=context - 1), config.head_size, dtype)
        return cls(near, Look(clamped, block_mask(first, torch.where(far, last, 0), known)))

    def attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [batch, length, 3, heads, size], not yet turned -> [batch, length, heads, size]."""
        return _compiled(_attend)(qkv, self.near, self.far)


def block_mask(first: Tensor, last: Tensor, known: Tensor) -> flex.BlockMask:
    """Each query sees the known keys from `first` up to but not `last`; what is not known is seen by itself alone.

    What `create_block_mask` makes, without the scores' size in memory. All are [batch, length], the first two int32.
    """
    length = first.shape[1]

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (first[b, q] <= k) & (k < last[b, q]) & (known[b, k] | (k == q))

    def blocks(x: Tensor) -> Tensor:
        """[batch, length, ...] -> [batch, blocks, BLOCK, ...], filled up with False."""
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, -length % BLOCK)).reshape(len(x), -1, BLOCK, *x.shape[2:])

    begin = torch.arange(0, length, BLOCK, device=first.device)
    end, first_, last_ = begin + BLOCK, first.unsqueeze(2), last.unsqueeze(2)
    some = blocks((first_ < end) & (begin < last_)).any(2)  # [batch, blocks of queries, blocks of keys]
    every = blocks((first_ <= begin) & (end <= last_)).all(2) & blocks(known).all(2).unsqueeze(1)
    return flex.BlockMask.from_kv_blocks(
        *_ordered(some & ~every), *_ordered(every), BLOCK_SIZE=BLOCK, mask_mod=seen, seq_lengths=(length, length)
    )


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
