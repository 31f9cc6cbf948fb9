"""Optimizers: AdamW, or Muon for the weight matrices of the blocks with AdamW for all other parameters."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gato_agent.model.gato import Gato
from gato_agent.training.config import TrainConfig

Rate = Callable[[int], float]  # learning rate of a step
STATE_KEYS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")  # optimizer state of a parameter


class Optimizers:
    """Several optimizers with the interface of one and a shared state.

    Attributes:
        state: optimizer state by parameter, then by name.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.state: dict[Tensor, dict[str, Any]] = parts[0].state
        for part in parts[1:]:
            part.state = parts[0].state

    @property
    def param_groups(self) -> Iterator[dict[str, Any]]:
        """Parameter groups of all optimizers."""
        return (group for part in self.parts for group in part.param_groups)

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """Update all parameters that have a gradient."""
        for part in self.parts:
            part.step()


def make_optimizer(config: TrainConfig, model: Gato) -> Optimizers:
    """Make the optimizer of a config, with a learning rate of 0 until a step sets it.

    Muon's steps (Jordan et al. 2024) are scaled to the size of AdamW's (Liu et al. 2025), so that both take the same
    learning rate and weight decay.
    """
    muon = config.optimizer == "muon"
    matrices = [p for p in model.blocks.parameters() if muon and p.ndim == 2]
    apart = model.corrections()
    rest = [p for p in model.parameters() if not any(p is other for other in (*matrices, *apart))]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay, "rate": config.rate},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "rate": config.rate},
    ]
    if apart:
        groups.append({"params": apart, "weight_decay": config.weight_decay, "rate": config.correction_rate})
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)]
    if muon:
        parts.append(Muon(matrices, config.weight_decay, config.rate, getattr(torch, config.precision)))
    return Optimizers(*parts)


class Muon(torch.optim.Optimizer):
    """Muon as in `torch.optim.Muon`, whose matrix products are in bfloat16 on a GPU.

    Args:
        matrices: parameters [m, n].
        weight_decay: decoupled, as in AdamW.
        rate: learning rate of each step.
        precision: of matrix products on a CPU, where bfloat16 can be far slower.
    """

    momentum = 0.95

    def __init__(
        self, matrices: Iterable[Tensor], weight_decay: float, rate: Rate, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__(matrices, {"lr": 0.0, "weight_decay": weight_decay, "rate": rate})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - self.momentum)
                rate = group["lr"] * 0.2 * math.sqrt(max(matrix.shape))  # as large as AdamW's steps
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                precision = torch.bfloat16 if matrix.is_cuda else self.precision
                matrix.add_(orthogonal(matrix.grad.lerp(mean, self.momentum), precision), alpha=-rate)


def orthogonal(matrix: Tensor, precision: torch.dtype) -> Tensor:
    """Approximate orthogonalisation by five Newton-Schulz steps (Jordan et al. 2024).

    Args:
        matrix: [m, n].
        precision: dtype of the matrix products.

    Returns:
        Matrix of the same singular vectors, shape and dtype, with singular values of about 1.
    """
    x = matrix.to(precision)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
