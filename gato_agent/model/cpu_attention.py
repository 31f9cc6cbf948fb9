"""Attention of whole windows in training, in compiled C++ (`cpu_attention.cpp`), for CPUs.

It computes what the blocks of `attention` do, about twice as fast: no key outside an episode or the context is
touched, no mask is read, and rotation is part of it. bfloat16 is multiplied as such where the processor can.
"""

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor

from gato_agent.model.config import GatoConfig
from gato_agent.model.rope import angles_of
from gato_agent.model.visibility import Visibility
from gato_agent.native.abi import check, load
from gato_agent.native.build import SOURCES

SOURCE = SOURCES / "cpu_attention.cpp"
ABI = 1  # as in cpu_attention.cpp
COLUMNS = 32  # heads are a multiple of this in size

_log = logging.getLogger(__name__)


class _Windows(ctypes.Structure):
    """The struct `AttentionInputs` of cpu_attention.cpp."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("batch", "length", "heads", "size", "context", "threads", "positions")),
        *((name, ctypes.c_void_p) for name in ("index", "segment", "first", "until", "prefix_first", "prefix_end")),
        *((name, ctypes.c_void_p) for name in ("cos", "sin")),
    ]  # fmt: skip


@dataclass(frozen=True)
class Band:
    """`Visibility` of windows as cpu_attention.cpp reads it."""

    windows: _Windows
    kept: tuple[Tensor, ...]  # what it points into

    @classmethod
    def of(cls, config: GatoConfig, visibility: Visibility) -> Self:
        """Describe windows; positions are at least 0."""
        position, segment, first, until, begin, end = visibility
        none = torch.zeros_like(first)
        places = position.expand(first.shape), segment, first, until, *(none if x is None else x for x in (begin, end))
        cos, sin = (
            x.squeeze(0) for x in angles_of(torch.arange(int(position.max()) + 1), config.head_size, torch.float32)
        )
        turns = [x[:, : config.head_size // 2].contiguous() for x in (cos, -sin)]
        kept = *(x.to(torch.int32).contiguous() for x in places), *turns
        sizes = *first.shape, config.heads, config.head_size, config.context, torch.get_num_threads(), len(cos)
        return cls(_Windows(*sizes, *(x.data_ptr() for x in kept)), kept)

    def attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [batch, length, 3, heads, size], not rotated -> [batch, length, heads, size].

        Raises:
            ValueError: another shape or dtype than float32 or bfloat16, or a visibility beyond the sequences.
        """
        w = self.windows
        shape = [w.batch, w.length, 3, w.heads, w.size]
        if list(qkv.shape) != shape or qkv.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"attention of {qkv.dtype} {list(qkv.shape)}: float32 or bfloat16 {shape} fits")
        return _Attend.apply(qkv.contiguous(), self)  # type: ignore[no-any-return,no-untyped-call]


class _Attend(torch.autograd.Function):
    """Calls cpu_attention.cpp."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, band: Band) -> Tensor:
        """See `Band.attend`."""
        batch, length, _, heads, size = qkv.shape
        y, sums = qkv.new_empty(batch, length, heads, size), torch.empty(batch, heads, length)
        _call("gato_attend", band, qkv, y, sums)
        ctx.save_for_backward(qkv, y, sums)
        ctx.band = band
        return y

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        """Gradient of qkv."""
        qkv, y, sums = ctx.saved_tensors
        found = torch.empty_like(qkv)
        _call("gato_attend_backward", ctx.band, qkv, y, sums, gradient[0].to(qkv.dtype).contiguous(), found)
        return found, None


def _call(name: str, band: Band, qkv: Tensor, *tensors: Tensor) -> None:
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (qkv, *tensors)]
    half = ctypes.c_int32(qkv.dtype == torch.bfloat16)
    compiled = _compiled()
    check(compiled, getattr(compiled, name)(ctypes.byref(band.windows), half, *pointers))


@cache
def _compiled() -> ctypes.CDLL:
    """The compiled attention; raises OSError where there is none, or one of another version."""
    return load(SOURCE, "the CPU attention of training", ABI, (_Windows,))


@cache
def available() -> bool:
    """Whether it can be compiled here; says so once if not."""
    try:
        _compiled()
    except OSError as error:
        _log.warning("training with PyTorch's attention, which is slower: %s", error)
        return False
    return True


def fits(config: GatoConfig, device: str) -> bool:
    """Whether models of this shape can use it on a device: on a CPU, those of all named sizes."""
    return device == "cpu" and config.head_size % COLUMNS == 0 and available()
