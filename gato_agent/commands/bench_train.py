"""The verb `bench train`: throughput of training steps relative to the roofline and to a plain loop, in one run.

Utilisation is FLOP/s by formula (`flops.training_flops`) over the measured peak of a matrix product in the same
precision. The plain loop is that of nanoGPT: the same blocks on random tokens in memory.
"""

import dataclasses
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.model_fields import ModelFields, expand_json
from gato_agent.commands.roofline import Roofline, timed
from gato_agent.dataset.batch import Batch
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.json_output import write_json
from gato_agent.inference.options import resolve_device
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Attention, Block, Gato
from gato_agent.model.rope import angles_of, rotate
from gato_agent.native.build import check_threads
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.training.config import TrainConfig
from gato_agent.training.flops import training_flops
from gato_agent.training.option_groups import Precision
from gato_agent.training.trainer import Trainer

__all__ = ["TrainBenchConfig", "TrainTiming", "bench_train", "expand_json"]


@dataclass(frozen=True)
class TrainBenchConfig:
    """Time training steps of untrained models on random episodes; ratios are of measurements of this run."""

    size: tuple[str, ...] = ("tiny",)
    """Model sizes: nano, tiny, small, baseline or large."""
    precision: tuple[Precision, ...] = ("float32", "bfloat16")
    """Precision of matrix products."""
    batch_size: int = 4
    """Batch size in sequences of twice the context length."""
    optimizer: str = "adamw"
    """Optimizer: adamw or muon; the plain loop uses AdamW."""
    observations: int = 17
    """Observation values of a timestep."""
    actions: int = 6
    """Action tokens of a timestep, which are the targets."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    num_threads: int = 1
    """CPU threads."""
    repeats: int = 5
    """Timed steps of each loop."""
    compile: bool = True
    """Compiled attention: C++ on a CPU, FlexAttention on a GPU."""
    json: Path | None = None
    """JSON file for the measurements; -: standard output, and messages on standard error."""
    model: ModelFields = field(default_factory=ModelFields)


@dataclass(frozen=True)
class TrainTiming:
    """Timing of one size and precision: CPU time with one CPU thread, else wall time.

    Attributes:
        size: of the model.
        precision: of matrix products.
        step: seconds of an optimizer step.
        tokens_per_second: of the trainer.
        utilisation: FLOP/s by formula over `peak`.
        peak: measured FLOP/s of a product of square matrices.
        over_masked_loop: tokens/s relative to a plain loop with the same mask and targets.
        over_unmasked_loop: tokens/s relative to a plain loop with causal attention over the whole sequence.
        loader: time of making a batch relative to a step.
        logits: time of a step with logits of all 34k ids at all positions, relative to one with those of the targets.
    """

    size: str
    precision: str
    step: float
    tokens_per_second: float
    utilisation: float
    peak: float
    over_masked_loop: float
    over_unmasked_loop: float
    loader: float
    logits: float


def bench_train(config: TrainBenchConfig) -> list[TrainTiming]:
    """Run the benchmark, print its table, and write `--json`."""
    check_threads(config.num_threads)
    torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    roofline = Roofline(device)
    rows = [measure(config, roofline, size, precision) for size in config.size for precision in config.precision]
    plain_console(soft_wrap=True).print(table(rows))
    if config.json:
        data = {
            "processor": platform.processor() or platform.machine(), "device": device, "threads": config.num_threads,
            "torch": torch.__version__, "batch_size": config.batch_size, "rows": [asdict(row) for row in rows],
        }  # fmt: skip
        write_json(config.json, data)
    return rows


def measure(config: TrainBenchConfig, roofline: Roofline, size: str, precision: Precision) -> TrainTiming:
    """Timing of one size and precision."""
    shape, device = GatoConfig.named(size).reshaped(config.model.over("{}")), roofline.device
    recipe = TrainConfig(size=size, precision=precision, compile=config.compile, optimizer=config.optimizer)  # type: ignore[arg-type]
    sampler = made_up(config, shape)
    batches = [sampler.batch(i).to(device) for i in range(2)]
    turn = iter(range(10**9))

    def clock(*steps: Callable[[], object]) -> list[float]:
        """Median seconds of each kind of step; kinds alternate, so that machine load affects all alike."""
        taken: list[list[float]] = [[] for _ in steps]
        for i in range(config.repeats):
            for step, times in zip(steps, taken, strict=True):
                walls, cpus = timed(step, 1, device, warm_up=1 if i == 0 else 0)
                times += cpus if device == "cpu" and config.num_threads == 1 else walls
        return [statistics.median(times) for times in taken]

    if device != "cpu":
        torch.compiler.reset()  # the number of compiled shapes in a process is limited
    torch.manual_seed(0)
    trainer = Trainer(recipe, Gato(shape).to(device))
    masked, unmasked = (PlainLoop(shape, device, precision, batches[0], causal) for causal in (False, True))
    seconds, with_mask, without = clock(lambda: trainer.update(batches[next(turn) % 2]), masked.step, unmasked.step)
    (load,) = clock(lambda: sampler.batch(next(turn)))
    peak = roofline.peak(getattr(torch, precision))
    tokens, flops = batches[0].tokens.numel(), training_flops(shape, batches[0])
    return TrainTiming(
        size, precision, seconds, tokens / seconds, flops / seconds / peak, peak,
        with_mask / seconds, without / seconds, load / seconds, logits_ratio(config, recipe, shape, device, clock),
    )  # fmt: skip


def logits_ratio(
    config: TrainBenchConfig, recipe: TrainConfig, shape: GatoConfig, device: str,
    clock: Callable[..., list[float]],
) -> float:  # fmt: skip
    """Time of a step with all 34k logits at all positions, relative to one with the legal ids at targets."""
    wide = dataclasses.replace(shape, text=32_000)
    sampler = made_up(dataclasses.replace(config, batch_size=1), wide)
    batch = sampler.batch(0).to(device)
    trainer = Trainer(recipe, Gato(wide).to(device))
    full = PlainLoop(wide, device, recipe.precision, batch, False, trainer.model)
    aimed, everywhere = clock(lambda: trainer.update(batch), full.everywhere)
    return everywhere / aimed


def made_up(config: TrainBenchConfig, shape: GatoConfig) -> BatchSampler:
    """Sampler of long episodes with random observations and actions."""
    observed, acted = (gym.spaces.Box(-1, 1, (n,), np.float32) for n in (config.observations, config.actions))
    tokenizer = TrainedTask("made-up", observed, acted).tokenizer(shape, None)
    rng, length = np.random.default_rng(0), 4 * shape.context // tokenizer.layout.length + 1
    episodes = [
        Episode(
            observations={"": rng.uniform(-1, 1, (length + 1, config.observations)).astype(np.float32)},
            actions={"": rng.uniform(-1, 1, (length, config.actions)).astype(np.float32)},
            labels=None, rewards=np.zeros(length), terminated=True, truncated=False, success=None, seed=seed,
            provenance={},
        )
        for seed in range(4)
    ]  # fmt: skip
    task = TokenizedTask.of("made-up", tokenizer, episodes)
    return BatchSampler([task], sequence_length=2 * shape.context, batch_size=config.batch_size)


class PlainLoop:
    """Training loop of nanoGPT over the model's blocks, with PyTorch's attention.

    Args:
        config: of the model.
        device: cpu or cuda.
        precision: of matrix products.
        batch: its targets and shape are used, with random tokens.
        causal: True for plain causal attention, False for a sliding-window mask of the context length.
        model: to be trained; by default a new one.
    """

    def __init__(
        self, config: GatoConfig, device: str, precision: Precision, batch: Batch, causal: bool,
        model: Gato | None = None,
    ) -> None:  # fmt: skip
        self.model = model or Gato(config).to(device)
        self.device, self.precision, self.batch, self.causal = device, getattr(torch, precision), batch, causal
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
        self.tokens = torch.randint(0, config.vocabulary.size, batch.tokens.shape, device=device)
        index = torch.arange(self.tokens.shape[1], device=device)
        distance = index[:, None] - index
        band = (distance >= 0) & (distance < config.context)
        self.mask = torch.zeros(band.shape, device=device).masked_fill(~band, -torch.inf)
        self.angles = angles_of(index, config.head_size, torch.float32)

    def hidden(self) -> Tensor:
        """Hidden states, [batch x length, width]."""
        x = self.model.embedding(self.tokens, self.batch.local, None, None)
        for block in self.model.blocks:
            assert isinstance(block, Block)
            x = x + self.attention(block.attention, block.attention_norm(x))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.model.norm(x).flatten(0, 1)  # type: ignore[no-any-return]

    def attention(self, layer: Attention, x: Tensor) -> Tensor:
        """Attention layer, [batch, length, width] -> [batch, length, width]."""
        b, n, d = x.shape
        q, k, v = layer.qkv(x).view(b, n, 3, layer.heads, d // layer.heads).permute(2, 0, 3, 1, 4)
        q, k = (rotate(each, *self.angles).to(v.dtype) for each in (q, k))
        mask = None if self.causal else self.mask.to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        return layer.out(y.transpose(1, 2).reshape(b, n, d))  # type: ignore[no-any-return]

    def step(self) -> None:
        """Take one step, with logits of the targets only."""

        def loss(hidden: Tensor) -> Tensor:
            return sum((self._loss_of(hidden, at) for at in range(len(self.batch.targets.offset))), torch.zeros(()))

        self._step(loss)

    def _loss_of(self, hidden: Tensor, at: int) -> Tensor:
        """Cross-entropy of one action token, from the marginal state of an action decoder if there is one."""
        targets = self.batch.targets
        total = torch.zeros((), device=self.device)
        for low, high, rows, _ in targets.ranges[at]:
            states = self.model.marginal_state(hidden[targets.position[rows] + targets.offset[at]], at)
            total = total + F.cross_entropy(self.model.logits(states, low, high), targets.ids[rows, at] - low)
        return total

    def everywhere(self) -> None:
        """Take one step, with logits of all ids at all positions."""
        wanted = torch.full((self.tokens.numel(),), -100, device=self.device)
        for at, offset in enumerate(self.batch.targets.offset):
            count = self.batch.targets.count(at)
            wanted[self.batch.targets.position[:count] + offset] = self.batch.targets.ids[:count, at]
        table = self.model.embedding.table.weight

        def loss(hidden: Tensor) -> Tensor:
            with torch.autocast(self.device, enabled=False):
                return F.cross_entropy(F.linear(hidden.float(), table), wanted)

        self._step(loss)

    def _step(self, loss: Callable[[Tensor], Tensor | int]) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32):
            total = loss(self.hidden())
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def table(rows: list[TrainTiming]) -> Table:
    """Table of timings."""
    shown = Table("model", "precision", title="training steps", box=box.SIMPLE, padding=0, collapse_padding=True)
    names = "tokens/s", "of peak", "peak GFLOP/s", "x plain, same mask", "x plain, no mask", "loader", "full logits"
    for name in names:
        shown.add_column(name, justify="right")
    for r in rows:
        shown.add_row(
            r.size, r.precision, f"{r.tokens_per_second:,.0f}", f"{r.utilisation:.0%}", f"{r.peak / 1e9:,.0f}",
            f"{r.over_masked_loop:.2f}", f"{r.over_unmasked_loop:.2f}", f"{r.loader:.2%}", f"{r.logits:.1f}x",
        )  # fmt: skip
    shown.caption = "full logits: time of a step with all 34k ids at all positions, over one with logits of the targets"
    return shown
