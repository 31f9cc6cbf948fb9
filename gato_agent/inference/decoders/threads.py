"""Threads of PyTorch and of the CPU decoder."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gato_agent.model.config import GatoConfig

WORK = 2**25  # multiplications of a step that pay for one more thread: ten environments of `tiny`


def threads_for(config: GatoConfig, num_envs: int) -> int:
    """Number of threads for a step: one per WORK multiplications, at most as many as PyTorch uses.

    Threads wait for each other several times a layer. On a busy machine small steps are many times slower with two.
    """
    work = 12 * config.layers * config.width**2 * num_envs
    return max(1, min(torch.get_num_threads(), work // WORK))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Context in which PyTorch uses `count` threads."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
