"""Trainer: optimizer steps on batches, and the state that resumes a run exactly."""

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

from gato_agent.checkpoints.checkpoint import not_finite, read, to_bytes
from gato_agent.checkpoints.former import renamed
from gato_agent.dataset.batch import Batch
from gato_agent.dataset.batches import BatchSampler
from gato_agent.envs.errors import GatoError
from gato_agent.envs.suggested_commands import suggest
from gato_agent.model import cpu_attention as band
from gato_agent.model import flex_attention as flex
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato, StochasticDepth
from gato_agent.training.config import TrainConfig
from gato_agent.training.distributed import Distributed, clip
from gato_agent.training.loss import ActionLoss, action_loss
from gato_agent.training.optimizer import STATE_KEYS, make_optimizer

STATE = "state.safetensors"


def _sharded() -> ModuleType:
    """Module `training.fsdp`, imported at first use: PyTorch's FSDP takes long to import."""
    return import_module("gato_agent.training.fsdp")


def compiles(config: TrainConfig, size: GatoConfig, device: torch.device) -> bool:
    """True if training uses compiled attention: C++ on a CPU, FlexAttention on a GPU."""
    return config.compile and (band.fits(size, device.type) or flex.fits(size, device.type))


class StepMetrics(NamedTuple):
    """Metrics of one optimizer step, over the whole batch of all processes.

    Attributes:
        loss: nats per action token, or per timestep with `loss_over`.
        norm: gradient norm before clipping to 1.
        families: loss of each family in nats; None for a family without targets in the batch.
        marginal: loss of action tokens predicted independently of earlier tokens of the action, in nats.
    """

    loss: float
    norm: float
    families: tuple[float | None, ...]
    marginal: float = 0.0


class Trainer:
    """Model, optimizer and step counter: the whole state of a run.

    Args:
        config: training options.
        model: to be trained, on its device.
        distributed: processes that share each batch; one process by default.
    """

    def __init__(self, config: TrainConfig, model: Gato, distributed: Distributed | None = None) -> None:
        self.config, self.model, self.step = config, model, 0
        self.distributed = distributed or Distributed()
        self.device = model.norm.weight.device
        model.compiled = compiles(config, model.config, self.device)
        for module in model.modules():
            if isinstance(module, StochasticDepth):
                module.dropout = config.dropout
        loss = ActionLoss(model, config.bin_label_smoothing, getattr(torch, config.precision))
        self._loss: nn.Module = loss
        if config.fsdp:
            self._loss = _sharded().shard(loss)
        elif self.distributed.size > 1:  # a batch without images leaves the patch tower unused
            self._loss = DistributedDataParallel(loss, find_unused_parameters=True)
        self.optimizer = make_optimizer(config, model)

    def update(self, *parts: Batch) -> StepMetrics:
        """Take one optimizer step.

        Args:
            parts: micro-batches of this process, whose gradients are accumulated.

        Raises:
            GatoError: the loss or its gradient is not finite.
        """
        self.model.train()
        # Seeded by step, so that stochastic depth and patch positions need no saved generator to resume exactly.
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) % 2**64)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"](self.step)
        local_weight = sum(part.targets.weighed for part in parts)
        # A tensor, so that a GPU is synchronised only after all its work is queued.
        weight = self.distributed.sum(torch.full((), local_weight, device=self.device))
        weight = torch.where(weight > 0, weight, 1)
        self.optimizer.zero_grad()
        part_sums = []
        for part in parts:
            with self._together(part is parts[-1]):
                losses = self._loss(part)
                (losses.total * self.distributed.size / weight).backward()  # gradients are averaged over the processes
            part_sums.append(torch.cat((losses.families, losses.weights, losses.marginal.unsqueeze(0))).detach())
        self._forget_unused(parts)
        norm = self._clip()
        sums = self.distributed.sum(torch.stack(part_sums).sum(0)).tolist()  # of all processes, by family
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
        self.step += 1
        return metrics

    def _clip(self) -> Tensor:
        """Clip gradients to a norm of 1 and return the norm before; corrections are clipped separately."""
        apart = self.model.corrections()
        if apart:
            clip(apart, 1.0, self.distributed)
        return clip([p for p in self.model.parameters() if id(p) not in set(map(id, apart))], 1.0, self.distributed)

    def _together(self, last: bool) -> AbstractContextManager[None]:
        """Context that synchronises gradients across processes in the last micro-batch only."""
        if isinstance(self._loss, DistributedDataParallel) and not last:
            return self._loss.no_sync()
        return nullcontext()

    def _forget_unused(self, parts: Sequence[Batch]) -> None:
        """Drop gradients of modules that no process used: FSDP gives every parameter a gradient."""
        if not self.config.fsdp:
            return
        used = self.model.used(
            max(len(part.targets.offset) for part in parts),
            any(part.patches is not None for part in parts),
            any(part.value_groups is not None for part in parts),
        )
        counts = self.distributed.sum(torch.tensor([float(present) for present in used.values()], device=self.device))
        for module, count in zip(used, counts.tolist(), strict=True):
            for parameter in module.parameters() if not count else ():
                parameter.grad = None

    def whole(self) -> Gato:
        """Unsharded model, complete on the main process; a collective under FSDP."""
        return _sharded().whole(self.model) if self.config.fsdp else self.model

    def save_shards(self, folder: Path) -> None:
        """Save the training state under FSDP: each process writes its own shard."""
        _sharded().save(folder, self.step, self._tensors())

    def load_latest(self, folder: Path) -> None:
        """Load the latest training state of a run folder, if there is one."""
        if self.config.fsdp:
            self._load_shards(folder)
        elif (folder / STATE).exists():
            self.load(folder / STATE)

    def _load_shards(self, folder: Path) -> None:
        latest = _sharded().saved(folder)
        if latest is None:
            return
        self.step, part = latest
        held = _sharded().names(part)
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter] = {
                key: torch.zeros((), device=self.device) if key == "step" else torch.zeros_like(parameter)
                for key in STATE_KEYS if f"{key}.{name}" in held
            }  # fmt: skip
        _sharded().load(part, self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and optimizer state by name, as this process holds them."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter.detach()
            tensors |= {f"{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return tensors

    def to_bytes(self) -> bytes:
        """Training state as safetensors: parameters, optimizer state, and the step."""
        tensors = self._tensors()
        return to_bytes({name: tensor.cpu() for name, tensor in tensors.items()}, {"step": self.step})

    def load(self, path: Path) -> None:
        """Load a file that `to_bytes` made; raises GatoError if it is damaged or of another model."""
        tensors, about = read(path)
        tensors = renamed(tensors)
        if type(about.get("step")) is not int or about["step"] < 0:
            raise GatoError(f"{path} holds no training state: restore it, or train again into another --out")
        if name := not_finite({name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}):
            raise GatoError(f"{path}: {name} is not finite: restore it, or train again into another --out")
        self.step = about["step"]
        go_on = suggest("fine-tune", init=path.parent, out=f"{path.parent}-again")
        for name, parameter in self.model.named_parameters():
            try:
                parameter.data.copy_(tensors[f"model.{name}"])
            except (KeyError, RuntimeError) as error:
                raise GatoError(
                    f"{path} is of another model ({error}): use the run's own --size, or if it is of an earlier "
                    f"version go on from its weights with `{go_on}`"
                ) from error
            state = {key: tensors[f"{key}.{name}"] for key in STATE_KEYS if f"{key}.{name}" in tensors}
            self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}

    @torch.no_grad()
    def validate(self, sampler: BatchSampler, batches: int = 8, model: Gato | None = None) -> float:
        """Validation loss in nats per action token, over the same batches at each call.

        Label smoothing and dropout are off.

        Args:
            sampler: of held-out episodes.
            batches: number of batches.
            model: to be measured; by default the trained one.
        """
        model = (model or self.model).eval()
        parts = [action_loss(model, sampler.batch(i).to(self.device)) for i in range(batches)]
        weights = sum(part.weights.sum().item() for part in parts)
        return sum(part.families.sum().item() for part in parts) / (weights or 1.0)
