"""Several processes that train one model: what torchrun started, and the few things that they must agree on."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from gato_agent.envs.errors import UsageError

PATIENCE = timedelta(hours=6)  # the others wait while the first process tokenizes; torchrun ends them if one dies


@dataclass(frozen=True)
class Distributed:
    """This process among those that torchrun started; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes; each must call this as often as the others."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def gather(self, value: object) -> list[Any]:
        """What each process has, in their order; each must call this as often as the others."""
        found = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(found, value)
        return found

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Others go on when the first process has left this block; where it failed, they end without a word."""
        failed = True
        try:
            yield
            failed = False
        finally:
            if self.gather(failed)[0] and not self.first:
                raise SystemExit(1)

    def leave(self) -> None:
        """Take leave of the others; nothing can be agreed on afterwards."""
        if self.size > 1:
            distributed.barrier()  # one that left early would be missed by what still runs in another
            distributed.destroy_process_group()


def clip(parameters: Iterable[nn.Parameter], largest: float, ranks: Distributed) -> Tensor:
    """Scale gradients down to a norm of at most `largest`; returns the norm that they had.

    Squares are summed in float64, so that the norm and with it the step is the same however the gradients are divided
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
        square = ranks.sum(square)
    norm = square.sqrt().float()
    torch._foreach_mul_(parts, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


def join(device: str) -> tuple[Distributed, str]:
    """Join the processes that torchrun started, if it did, and choose this one's device.

    Args:
        device: cpu or cuda, which becomes one GPU a process.

    Raises:
        UsageError: more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Distributed(), device
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"{local + 1} processes for {torch.cuda.device_count()} GPUs: start torchrun with --nproc-per-node gpu"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device != "cpu" else "gloo", timeout=PATIENCE)
    return Distributed(distributed.get_rank(), size), device
