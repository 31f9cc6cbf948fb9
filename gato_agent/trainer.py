"""A model in training: what one optimizer step does, and all that it takes to continue exactly."""

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gato_agent.band import fits
from gato_agent.checkpoint import read, to_bytes
from gato_agent.envs.errors import GatoError
from gato_agent.loss import ActionLoss, action_loss
from gato_agent.model import Gato
from gato_agent.optimizer import KEPT, average, make_optimizer
from gato_agent.ranks import Ranks
from gato_agent.recipe import TrainConfig
from gato_agent.windows import Batch, Windows


class Figures(NamedTuple):
    """What one optimizer step was like, over the whole batch, of which each process is given its part."""

    loss: float
    """Per target, in nats."""
    norm: float
    """Of the gradient, before it is clipped to 1."""
    families: tuple[float | None, ...]
    """The loss of each family's targets; None where it had none."""


class Trainer:
    """A model, its optimizer and a step counter, which together are the whole state of a run.

    Args:
        config: how to train.
        model: on its device.
        ranks: processes that share the work: each sees a part of every batch, and all take the same steps.
    """

    def __init__(self, config: TrainConfig, model: Gato, ranks: Ranks | None = None) -> None:
        self.config, self.model, self.step, self.ranks = config, model, 0, ranks or Ranks()
        self.device = model.norm.weight.device
        model.compiled = config.compile and fits(model.config, self.device.type)
        self._loss: nn.Module = ActionLoss(model, config.smooth_bins, getattr(torch, config.precision))
        if self.ranks.size > 1:  # a batch without images leaves the patch tower unused
            self._loss = DistributedDataParallel(self._loss, find_unused_parameters=True)
        self.optimizer = make_optimizer(config, model)
        self.mean = copy.deepcopy(model) if config.ema else None

    @property
    def result(self) -> Gato:
        """What training is for: the averaged model if there is one, else the model."""
        return self.mean or self.model

    def update(self, *parts: Batch) -> Figures:
        """One optimizer step on a batch, or on this process's share of it, in one part or several."""
        self.model.train()
        # Seeded by step, so that stochastic depth and patch positions need no saved generator to resume exactly.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        here = sum(len(target.id) for part in parts for target in part.targets)
        # A tensor: a GPU is waited for only when all its work is given out.
        targets = self.ranks.sum(torch.tensor(float(here), device=self.device)).clamp(min=1)
        self.optimizer.zero_grad()
        found = []
        for part in parts:
            with self._together(part is parts[-1]):
                sums, counts = self._loss(part)
                (sums.sum() * self.ranks.size / targets).backward()  # gradients are averaged over the processes
            found.append(torch.stack((sums.detach(), counts)))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        losses, numbers = self.ranks.sum(torch.stack(found).sum(0)).tolist()  # of all processes, by family
        families = tuple(loss / number if number else None for loss, number in zip(losses, numbers, strict=True))
        figures = Figures(sum(losses) / max(1.0, sum(numbers)), norm.item(), families)
        if not math.isfinite(figures.loss + figures.norm):
            raise GatoError(
                f"step {self.step}: the loss is {figures.loss} and its gradient {figures.norm}; the last checkpoint is "
                "kept: train again with a lower --learning-rate"
            )
        self.optimizer.step()
        if self.mean is not None:
            average(self.mean, self.model, self.step, self.config.ema)
        self.step += 1
        return figures

    def _together(self, last: bool) -> AbstractContextManager[None]:
        """Processes sum their gradients in the last part of a step."""
        if isinstance(self._loss, DistributedDataParallel) and not last:
            return self._loss.no_sync()
        return nullcontext()

    def to_bytes(self) -> bytes:
        """Weights, the optimizer's moments and counts of those that ever had a gradient, and the step."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter.detach().cpu()
            tensors |= {f"{key}.{name}": value.cpu() for key, value in self.optimizer.state[parameter].items()}
        for name, parameter in self.mean.named_parameters() if self.mean else ():
            tensors[f"mean.{name}"] = parameter.detach().cpu()
        return to_bytes(tensors, {"step": self.step})

    def load(self, path: Path) -> None:
        """Continue from what `to_bytes` gave; raises GatoError if the file is damaged or of another model."""
        tensors, about = read(path)
        if "step" not in about:
            raise GatoError(f"{path} holds no state of training: restore it, or train again into another --out")
        self.step = int(about["step"])
        for name, parameter in self.model.named_parameters():
            try:
                parameter.data.copy_(tensors[f"model.{name}"])
            except (KeyError, RuntimeError) as error:
                raise GatoError(f"{path} is of another model ({error}): use the run's own --size") from error
            state = {key: tensors[f"{key}.{name}"] for key in KEPT if f"{key}.{name}" in tensors}
            self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
        for name, parameter in self.mean.named_parameters() if self.mean else ():
            parameter.data.copy_(tensors[f"mean.{name}"])

    @torch.no_grad()
    def validate(self, windows: Windows, batches: int = 8) -> float:
        """Mean loss over the same few batches every time, without smoothing or dropping anything."""
        model, device = self.result.eval(), self.device
        parts = [action_loss(model, windows.batch(i).to(device)) for i in range(batches)]
        return sum(sums.sum().item() for sums, _ in parts) / max(1, sum(counts.sum().item() for _, counts in parts))
