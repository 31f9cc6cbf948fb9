"""A model in training: what one optimizer step does, and all that it takes to continue exactly."""

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gato_agent.checkpoints.checkpoint import not_finite, read, renamed, to_bytes
from gato_agent.dataset.batches import Batch, BatchSampler
from gato_agent.envs.errors import GatoError
from gato_agent.model import cpu_attention as band
from gato_agent.model import flex_attention as flex
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato, StochasticDepth
from gato_agent.training.config import TrainConfig
from gato_agent.training.distributed import Distributed, clip
from gato_agent.training.loss import ActionLoss, action_loss
from gato_agent.training.optimizer import KEPT, average, make_optimizer

STATE = "state.safetensors"


def _sharded() -> ModuleType:
    """Importing PyTorch's FSDP takes half as long as importing PyTorch, and few runs need it."""
    return import_module("gato_agent.training.fsdp")


def compiles(config: TrainConfig, size: GatoConfig, device: torch.device) -> bool:
    """Whether windows are trained on with compiled attention: C++ on a CPU, FlexAttention on a GPU."""
    return config.compile and (band.fits(size, device.type) or flex.fits(size, device.type))


class StepMetrics(NamedTuple):
    """What one optimizer step was like, over the whole batch, of which each process is given its part."""

    loss: float
    """Per target, in nats, or per timestep with `loss_over`."""
    norm: float
    """Of the gradient, before it is clipped to 1."""
    families: tuple[float | None, ...]
    """The loss of each family's targets; None where it had none."""
    marginal: float = 0.0
    """The loss without regard to the tokens before in an action."""


class Trainer:
    """A model, its optimizer and a step counter, which together are the whole state of a run.

    Args:
        config: how to train.
        model: on its device.
        ranks: processes that share the work: each sees a part of every batch, and all take the same steps.
    """

    def __init__(self, config: TrainConfig, model: Gato, ranks: Distributed | None = None) -> None:
        self.config, self.model, self.step, self.ranks = config, model, 0, ranks or Distributed()
        self.device = model.norm.weight.device
        model.compiled = compiles(config, model.config, self.device)
        for module in model.modules():
            if isinstance(module, StochasticDepth):
                module.dropout = config.dropout
        loss = ActionLoss(model, config.bin_label_smoothing, getattr(torch, config.precision))
        self._loss: nn.Module = loss
        if config.fsdp:
            self._loss = _sharded().shard(loss)
        elif self.ranks.size > 1:  # a batch without images leaves the patch tower unused
            self._loss = DistributedDataParallel(loss, find_unused_parameters=True)
        self.optimizer = make_optimizer(config, model)
        self.mean = copy.deepcopy(model) if config.ema else None

    @property
    def result(self) -> Gato:
        """What training is for: the averaged model if there is one, else the model."""
        return self.mean or self.model

    def update(self, *parts: Batch) -> StepMetrics:
        """One optimizer step on a batch, or on this process's share of it, in one part or several."""
        self.model.train()
        # Seeded by step, so that stochastic depth and patch positions need no saved generator to resume exactly.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step) * group["rate"]
        here = sum(part.targets.weighed for part in parts)
        # A tensor: a GPU is waited for only when all its work is given out.
        weight = self.ranks.sum(torch.full((), here, device=self.device))
        weight = torch.where(weight > 0, weight, 1)
        self.optimizer.zero_grad()
        found = []
        for part in parts:
            with self._together(part is parts[-1]):
                losses = self._loss(part)
                (losses.total * self.ranks.size / weight).backward()  # gradients are averaged over the processes
            found.append(torch.cat((losses.families, losses.weights, losses.marginal.unsqueeze(0))).detach())
        self._forget_unused(parts)
        norm = self._clip()
        sums = self.ranks.sum(torch.stack(found).sum(0)).tolist()  # of all processes, by family
        losses, weighed, marginal = sums[: len(sums) // 2], sums[len(sums) // 2 : -1], sums[-1]
        families = tuple(loss / each if each else None for loss, each in zip(losses, weighed, strict=True))
        whole = sum(weighed) or 1.0
        metrics = StepMetrics(sum(losses) / whole, norm.item(), families, marginal / whole)
        if not math.isfinite(metrics.loss + metrics.norm):
            raise GatoError(
                f"step {self.step}: the loss is {metrics.loss} and its gradient {metrics.norm}; the last checkpoint is "
                "kept: train again with a lower --learning-rate"
            )
        self.optimizer.step()
        if self.mean is not None:
            average(self.mean, self.model, self.step, self.config.ema)
        self.step += 1
        return metrics

    def _clip(self) -> Tensor:
        """Clip gradients to a norm of 1; returns what it was. A correction is clipped alone: it is trained apart."""
        decoder = self.model.action_decoder
        apart = list(decoder.corrections()) if decoder else []
        if apart:
            clip(apart, 1.0, self.ranks)
        return clip([p for p in self.model.parameters() if id(p) not in set(map(id, apart))], 1.0, self.ranks)

    def _together(self, last: bool) -> AbstractContextManager[None]:
        """Processes sum their gradients in the last part of a step."""
        if isinstance(self._loss, DistributedDataParallel) and not last:
            return self._loss.no_sync()
        return nullcontext()

    def _forget_unused(self, parts: Sequence[Batch]) -> None:
        """FSDP gives every parameter a gradient: None for patches, value groups and actions that no process had."""
        if not self.config.fsdp:
            return
        embedding = self.model.embedding
        used: dict[nn.Module, bool] = {embedding.patch: any(part.patches is not None for part in parts)}
        if self.model.config.values_per_token > 1:
            used[embedding.value_group] = any(part.value_groups is not None for part in parts)
        if self.model.action_decoder is not None:
            used |= self._decoder_used(max(len(part.targets.offset) for part in parts))
        counts = self.ranks.sum(torch.tensor([float(here) for here in used.values()], device=self.device))
        for module, count in zip(used, counts.tolist(), strict=True):
            for parameter in module.parameters() if not count else ():
                parameter.grad = None

    def _decoder_used(self, tokens: int) -> dict[nn.Module, bool]:
        """Parts of the action decoder, and whether actions of so many tokens use them."""
        decoder = self.model.action_decoder
        assert decoder is not None
        part = decoder.correction
        used: dict[nn.Module, bool] = {layer: at < tokens for at, layer in enumerate(decoder.marginal)}
        for at in range(len(part.state)):
            conditional = 0 < at < tokens or (at == 0 and tokens > len(part.state))
            used |= {part.state[at]: conditional, part.out[at]: conditional, part.read[at]: at < tokens - 1}
        return {**used, part.chosen: tokens > 1, part.carry: tokens > len(part.state)}

    def whole(self) -> Gato:
        """The model in one piece; all processes must ask for it together, and the first one has it."""
        return _sharded().whole(self.model) if self.config.fsdp else self.result

    def save_shards(self, folder: Path) -> None:
        """What `to_bytes` gives, each process writing its own part."""
        _sharded().save(folder, self.step, self._tensors())

    def load_latest(self, folder: Path) -> None:
        """Continue from the latest state in a run's folder, if there is one."""
        if self.config.fsdp:
            self._load_shards(folder)
        elif (folder / STATE).exists():
            self.load(folder / STATE)

    def _load_shards(self, folder: Path) -> None:
        found = _sharded().saved(folder)
        if found is None:
            return
        self.step, part = found
        held = _sharded().names(part)
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter] = {
                key: torch.zeros((), device=self.device) if key == "step" else torch.zeros_like(parameter)
                for key in KEPT if f"{key}.{name}" in held
            }  # fmt: skip
        _sharded().load(part, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters, and what is remembered of those that ever had a gradient, as this process holds them."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter.detach()
            tensors |= {f"{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return tensors

    def to_bytes(self) -> bytes:
        """All that it takes to continue: `_tensors`, averaged weights if there are any, and the step."""
        tensors = self._tensors()
        for name, parameter in self.mean.named_parameters() if self.mean else ():
            tensors[f"mean.{name}"] = parameter.detach()
        return to_bytes({name: tensor.cpu() for name, tensor in tensors.items()}, {"step": self.step})

    def load(self, path: Path) -> None:
        """Continue from what `to_bytes` gave; raises GatoError if the file is damaged or of another model."""
        tensors, about = read(path)
        tensors = renamed(tensors)
        if type(about.get("step")) is not int or about["step"] < 0:
            raise GatoError(f"{path} holds no state of training: restore it, or train again into another --out")
        if name := not_finite({name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}):
            raise GatoError(f"{path}: {name} is not finite: restore it, or train again into another --out")
        self.step = about["step"]
        for name, parameter in self.model.named_parameters():
            try:
                parameter.data.copy_(tensors[f"model.{name}"])
            except (KeyError, RuntimeError) as error:
                raise GatoError(
                    f"{path} is of another model ({error}): use the run's own --size, or if it is "
                    "of an earlier version train again into another --out"
                ) from error
            state = {key: tensors[f"{key}.{name}"] for key in KEPT if f"{key}.{name}" in tensors}
            self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
        for name, parameter in self.mean.named_parameters() if self.mean else ():
            if f"mean.{name}" not in tensors:
                raise GatoError(f"{path} has no averaged {name}: restore it, or train again into another --out")
            parameter.data.copy_(tensors[f"mean.{name}"])

    @torch.no_grad()
    def validate(self, windows: BatchSampler, batches: int = 8, model: Gato | None = None) -> float:
        """Mean loss over the same few batches every time, without smoothing or dropping anything."""
        model = (model or self.result).eval()
        parts = [action_loss(model, windows.batch(i).to(self.device)) for i in range(batches)]
        weights = sum(part.weights.sum().item() for part in parts)
        return sum(part.families.sum().item() for part in parts) / (weights or 1.0)
