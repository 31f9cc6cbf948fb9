"""Distributed training under torchrun: this process's rank, collectives, and gradient clipping across processes."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gato_agent.envs.errors import UsageError

TIMEOUT = timedelta(hours=6)  # other processes wait while the main one tokenizes; torchrun ends them if it dies


@dataclass(frozen=True)
class Distributed:
    """Rank of this process and number of processes that torchrun started; one process by default.

    Every method but `is_main` is a collective: all processes call it equally often and in the same order.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def init(cls, device: str) -> tuple[Self, str]:
        """Join torchrun's process group, if there is one, and choose the device of this process.

        Args:
            device: cpu or cuda, which becomes one GPU for each process.

        Raises:
            UsageError: more processes than GPUs.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(), device
        if device == "cuda":
            local = int(os.environ.get("LOCAL_RANK", "0"))
            gpus = torch.cuda.device_count()
            if local >= gpus:
                raise UsageError(f"{local + 1} processes for {gpus} GPUs: start torchrun with --nproc-per-node gpu")
            device = f"cuda:{local}"
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if device != "cpu" else "gloo", timeout=TIMEOUT)
        return cls(dist.get_rank(), size), device

    @property
    def is_main(self) -> bool:
        """True if this is rank 0, the process that prints and writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes (all-reduce), in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Block until all processes have called this (barrier)."""
        if self.size > 1:
            dist.barrier()

    def gather(self, value: object) -> list[Any]:
        """Values of all processes, by rank (all-gather)."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Context in which the main process works first: others continue when it leaves, or exit where it raised."""
        failed = True
        try:
            yield
            failed = False
        finally:
            if self.gather(failed)[0] and not self.is_main:
                raise SystemExit(1)

    def shutdown(self) -> None:
        """Destroy the process group, after a barrier: no collective is possible afterwards."""
        if self.size > 1:
            dist.barrier()  # a process that exits early breaks collectives that are still running in another
            dist.destroy_process_group()


def clip(parameters: Iterable[nn.Parameter], largest: float, distributed: Distributed) -> Tensor:
    """Clip gradients in place to a global norm of at most `largest`; returns the norm before clipping, float32 [].

    Squares are summed in float64, so that the norm and with it the step do not depend on how gradients are divided
    among processes.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    shards = [g for g in gradients if hasattr(g, "to_local")]  # of FSDP
    parts = [g.to_local() for g in shards] or gradients
    if not parts:
        return torch.zeros(())
    norms = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]
    square = torch.stack(norms).square().sum()
    if shards:
        square = distributed.sum(square)
    norm = square.sqrt().float()
    torch._foreach_mul_(parts, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm
