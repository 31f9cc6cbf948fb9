"""Sliding-window attention of training in compiled C++ (`cpu_attention.cpp`), for CPUs.

It computes what `SdpaAttention` computes: no key outside an episode or the context is read, there is no mask, and
rotation is part of it. bfloat16 is multiplied as such where the processor can.
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


class _AttentionInputs(ctypes.Structure):
    """The struct `AttentionInputs` of cpu_attention.cpp."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("batch", "length", "heads", "size", "context", "threads", "positions")),
        *((name, ctypes.c_void_p) for name in ("index", "segment", "first", "until", "prefix_first", "prefix_end")),
        *((name, ctypes.c_void_p) for name in ("cos", "sin")),
    ]  # fmt: skip


@dataclass(frozen=True)
class CpuAttention:
    """A `Visibility` as cpu_attention.cpp reads it; an `AttentionBackend`."""

    inputs: _AttentionInputs
    buffers: tuple[Tensor, ...]  # memory that `inputs` points into

    @classmethod
    def prepare(cls, config: GatoConfig, visibility: Visibility, dtype: torch.dtype = torch.float32) -> Self:
        """See `AttentionBackend`; positions are at least 0, and `dtype` is that of qkv."""
        position, segment, first, until, begin, end = visibility
        none = torch.zeros_like(first)
        places = position.expand(first.shape), segment, first, until, *(none if x is None else x for x in (begin, end))
        cos, sin = (
            x.squeeze(0) for x in angles_of(torch.arange(int(position.max()) + 1), config.head_size, torch.float32)
        )
        angles = [x[:, : config.head_size // 2].contiguous() for x in (cos, -sin)]
        buffers = *(x.to(torch.int32).contiguous() for x in places), *angles
        sizes = *first.shape, config.heads, config.head_size, config.context, torch.get_num_threads(), len(cos)
        return cls(_AttentionInputs(*sizes, *(x.data_ptr() for x in buffers)), buffers)

    def attend(self, qkv: Tensor) -> Tensor:
        """See `AttentionBackend`.

        Raises:
            ValueError: another shape or dtype than float32 or bfloat16, or a visibility beyond the sequences.
        """
        sizes = self.inputs
        shape = [sizes.batch, sizes.length, 3, sizes.heads, sizes.size]
        if list(qkv.shape) != shape or qkv.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"attention of {qkv.dtype} {list(qkv.shape)}: float32 or bfloat16 {shape} fits")
        return _Attend.apply(qkv.contiguous(), self)  # type: ignore[no-any-return,no-untyped-call]


class _Attend(torch.autograd.Function):
    """Forward and backward pass of cpu_attention.cpp."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, attention: CpuAttention) -> Tensor:
        """See `CpuAttention.attend`."""
        batch, length, _, heads, size = qkv.shape
        y, sums = qkv.new_empty(batch, length, heads, size), torch.empty(batch, heads, length)
        _call("gato_attend", attention, qkv, y, sums)
        ctx.save_for_backward(qkv, y, sums)
        ctx.attention = attention
        return y

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        """Gradient of qkv."""
        qkv, y, sums = ctx.saved_tensors
        qkv_gradient = torch.empty_like(qkv)
        y_gradient = gradient[0].to(qkv.dtype).contiguous()
        _call("gato_attend_backward", ctx.attention, qkv, y, sums, y_gradient, qkv_gradient)
        return qkv_gradient, None


def _call(name: str, attention: CpuAttention, qkv: Tensor, *tensors: Tensor) -> None:
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (qkv, *tensors)]
    is_bfloat16 = ctypes.c_int32(qkv.dtype == torch.bfloat16)
    compiled = _compiled()
    check(compiled, getattr(compiled, name)(ctypes.byref(attention.inputs), is_bfloat16, *pointers))


@cache
def _compiled() -> ctypes.CDLL:
    """The compiled attention; raises OSError if it cannot be compiled, or is of another version."""
    return load(SOURCE, "the CPU attention of training", ABI, (_AttentionInputs,))


@cache
def available() -> bool:
    """True if this machine can compile it; logs one warning if not."""
    try:
        _compiled()
    except OSError as error:
        _log.warning("training with PyTorch's attention, which is slower: %s", error)
        return False
    return True


def fits(config: GatoConfig, device: str) -> bool:
    """True if models of this shape can use it on a device: on a CPU, those of all named sizes."""
    return device == "cpu" and config.head_size % COLUMNS == 0 and available()
