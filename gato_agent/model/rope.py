"""Rotary position embedding: attention scores depend on the distance between tokens."""

from functools import lru_cache

import torch
from torch import Tensor

Angles = tuple[Tensor, Tensor]  # cosine and sine


def angles_of(index: Tensor, head_size: int, dtype: torch.dtype) -> Angles:
    """Angles of rotary position embedding (Su et al. 2021) by token index.

    Args:
        index: integer [..., length].
        head_size: even; each pair of dimensions has its own frequency.
        dtype: of the result. The angles themselves are float64: an episode may last millions of tokens, and in
            float32 they would drift after thousands.

    Returns:
        Cosine and sine, each [..., 1, length, head_size]; the sine of a pair's first dimension is negated.
    """
    angle = index.unsqueeze(-1) * frequencies(head_size, index.device)  # [..., length, head_size / 2]
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1).unsqueeze(-3), torch.cat((-sin, sin), dim=-1).unsqueeze(-3)


@lru_cache
def frequencies(head_size: int, device: torch.device) -> Tensor:
    """Radians per token of each pair of dimensions, float64 [head_size / 2]."""
    return 10_000 ** -(torch.arange(0, head_size, 2, device=device, dtype=torch.float64) / head_size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + size/2) of x [..., length, size] by its angle."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
