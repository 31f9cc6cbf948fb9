"""Gradient accumulation: peak memory and speed of training steps of one batch in 1, 2, ... micro-batches.

    gato-agent collect --env CartPole-v1 --episodes 100 --out data
    OMP_NUM_THREADS=1 python benchmarks/accumulate.py --data data

Each number of micro-batches trains in a process of its own.
"""

import multiprocessing
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import tyro
from rich.console import Console

from gato_agent.commands.train import TrainConfig, train
from gato_agent.dataset.batch import Batch
from gato_agent.training.trainer import StepMetrics, Trainer


@dataclass(frozen=True)
class Config:
    """Train a few steps with each number of micro-batches."""

    data: tuple[Path, ...] = (Path("data"),)
    """Training data: folders that `gato-agent collect --out` wrote."""
    size: str = "tiny"
    """Model size."""
    batch_size: int = 32
    """Batch size in sequences of twice the context length."""
    accumulate: tuple[int, ...] = (1, 4)
    """Micro-batches of a step."""
    steps: int = 3
    """Optimizer steps; the first is not timed."""


def measure(config: Config, accumulate: int) -> tuple[float, float]:
    """Peak memory of this process in GB, and tokens of training per second of CPU time."""
    speeds = []
    update = Trainer.update

    def timed(trainer: Trainer, *parts: Batch) -> StepMetrics:
        began = time.process_time()
        metrics = update(trainer, *parts)
        speeds.append(sum(part.tokens.numel() for part in parts) / (time.process_time() - began))
        return metrics

    with TemporaryDirectory() as folder, patch.object(Trainer, "update", timed):
        train(TrainConfig(
            data=config.data, out=Path(folder), size=config.size, batch_size=config.batch_size, steps=config.steps,
            accumulate=accumulate, precision="bfloat16", num_threads=1, device="cpu", save_every=config.steps,
        ))  # fmt: skip
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, statistics.median(speeds[1:])


def main(config: Config) -> None:
    """Print a table as Markdown, a number of micro-batches a row."""
    lines = ["| micro-batches | peak memory, GB | tokens/s |", "|---:|---:|---:|"]
    for accumulate in config.accumulate:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory, speed = pool.apply(measure, (config, accumulate))
        lines.append(f"| {accumulate} | {memory:.1f} | {speed:,.0f} |")
    Console(soft_wrap=True, markup=False, highlight=False).print(*lines, sep="\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
