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

from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.bench.plain_loop import PlainLoop
from gato_agent.commands.bench.roofline import Roofline, timed
from gato_agent.commands.model_fields import ModelFields, expand_json
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.errors import at_least
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.json_output import write_json
from gato_agent.inference.options import resolve_device
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.native.build import check_threads
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.training.config import TrainConfig
from gato_agent.training.flops import training_flops
from gato_agent.training.option_groups import Precision
from gato_agent.training.trainer import Trainer

__all__ = ["TrainBenchConfig", "TrainTiming", "bench_train", "expand_json"]


@dataclass(frozen=True)
class TrainBenchConfig:
    """Time training steps of untrained models on random episodes; every ratio compares two measurements of this run."""

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
    """Run the benchmark, print its table, and write `--json`.

    Raises:
        UsageError: an unknown size, or an option out of range.
    """
    at_least(1, batch_size=config.batch_size, observations=config.observations, actions=config.actions)
    at_least(1, repeats=config.repeats)
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
