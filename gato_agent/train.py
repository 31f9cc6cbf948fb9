"""Behaviour cloning: predict the expert's action tokens, and only those."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gato_agent import run_folder
from gato_agent.agent import resolve_device
from gato_agent.checkpoint import FILE, Checkpoint, read
from gato_agent.config import GatoConfig
from gato_agent.data import Data, load_data, mixture
from gato_agent.envs.errors import UsageError
from gato_agent.envs.files import lock_folder, write_files
from gato_agent.model import Gato
from gato_agent.ranks import join
from gato_agent.recipe import TrainConfig
from gato_agent.rollouts.progress import progress
from gato_agent.trainer import Trainer
from gato_agent.windows import Windows

__all__ = ["TrainConfig", "train"]

STATE = "state.safetensors"
BEST = "best"  # folder of the model with the lowest loss on held-out episodes


def train(config: TrainConfig) -> Path:
    """Train, or resume training; returns the path of the model.

    Raises:
        UsageError: nothing to train on, or a run is already in `out` and `resume` is off.
        GatoError: the loss is not finite, or a file is damaged.
    """
    config.check()
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    ranks, device = join(resolve_device(config.device))
    if config.batch_size < ranks.size:
        raise UsageError(f"--batch-size {config.batch_size}: {ranks.size} processes need a window each")
    size = GatoConfig.named(config.size).reshaped(config.shape)
    start = Checkpoint.load(config.init, device) if config.init else None
    if start and start.model.config != size:
        raise UsageError(
            f"--init {config.init} is no {config.size} model of this shape: give its own --size and --shape"
        )
    text = start.text if start else None
    data = load_data(config.data, size, config.text_pieces, config.text_model, text, config.holdout)
    windows = Windows(
        data.tokenized, window=2 * size.context, batch_size=config.batch_size, seed=config.seed,
        weights=mixture(config.mixture, list(data.tasks)),
    )  # fmt: skip
    shaping = {**config.shaping(), "num_threads": torch.get_num_threads(), "device": device}
    shaping |= {"data_sha256": data.sha256(), **({"init_sha256": start.sha256()} if start else {})}
    shaping |= {"processes": ranks.size, "device": config.device} if ranks.size > 1 else {}
    with closing(lock_folder(config.out, "train")) if ranks.first else nullcontext():
        schedule = ("steps", "decay_steps")  # what of it may change is said by the rates of the steps that were taken
        before = shaping
        if ranks.first:
            before = run_folder.prepare(config.out, shaping, resume=config.resume, may_change=schedule)
        torch.manual_seed(config.seed)
        trainer = Trainer(config, start.model if start else Gato(size).to(device), ranks)
        if (config.out / STATE).exists():
            trainer.load(config.out / STATE)
        config.check_past(before, trainer.step)
        if before != shaping:
            run_folder.write(config.out, shaping)
        ranks.wait()  # nobody writes before all have read
        path = _Run(trainer, windows, data, shaping, device).to_the_end()
    ranks.leave()
    return path


class _Run:
    """A trainer with its data and its folder."""

    def __init__(self, trainer: Trainer, windows: Windows, data: Data, shaping: dict[str, Any], device: str) -> None:
        self.trainer, self.windows, self.data, self.shaping, self.device = trainer, windows, data, shaping, device
        self.config, self.ranks = trainer.config, trainer.ranks
        self.held_out = Windows(data.held_out, window=windows.window, batch_size=1) if data.held_out else None
        self._disk = ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None
        self._at = -1  # step of the latest checkpoint

    def to_the_end(self) -> Path:
        """Train to the last step or minute, saving now and then and at the end."""
        config, trainer = self.config, self.trainer
        console = Console(soft_wrap=True, markup=False, quiet=not self.ranks.first)
        console.print(
            f"{len(self.data.tasks)} task(s), {self.data.tokens:,} tokens; {config.size}: "
            f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters on {self.device}; "
            f"steps {trainer.step} to {config.steps} of {config.batch_size * self.windows.window:,} tokens"
        )
        bar = progress(console, str(config.out), config.steps, "steps", trainer.step, every=10.0)
        deadline = time.monotonic() + 60 * config.minutes if config.minutes is not None else float("inf")
        log = run_folder.Log(config.out / "log.jsonl", trainer.step) if self.ranks.first else nullcontext()
        with self._disk, log as lines, bar as update:
            for entry in self.steps():
                late = self._any(time.monotonic() >= deadline) if config.minutes is not None else False
                due = trainer.step % config.save_every == 0 or trainer.step == config.steps or late
                if lines is not None:
                    if due and self.held_out:
                        entry["held_out_loss"] = trainer.validate(self.held_out)
                    lines.write(entry)
                    update(trainer.step, ", ".join(_said(entry)))
                    if due:
                        self.save(entry.get("held_out_loss"))
                if late:
                    break
            if lines is not None and self._at != trainer.step and not self._complete():
                self.save(trainer.validate(self.held_out) if self.held_out else None)
            self._wait()
        finished = trainer.step >= config.steps
        console.print(f"{'trained' if finished else f'stopped at step {trainer.step}, continue with --resume'}: "
                      f"{config.out / FILE}")  # fmt: skip
        return config.out / FILE

    def steps(self) -> Iterator[dict[str, Any]]:
        """Train to the last step, yielding one log entry per step."""
        trainer, ranks = self.trainer, self.ranks
        while trainer.step < self.config.steps:
            began = time.perf_counter()
            batch = self.windows.batch(trainer.step, ranks.rank, ranks.size).to(self.device)
            loss, norm = trainer.update(batch)
            seconds = time.perf_counter() - began
            yield {
                "step": trainer.step,
                "loss": loss,
                "gradient_norm": norm,
                "learning_rate": self.config.rate(trainer.step - 1),
                "tokens_per_second": ranks.size * batch.tokens.numel() / seconds,
            }

    def _complete(self) -> bool:
        """Whether a run that is resumed when all was done has a model to show for it."""
        path = self.config.out / FILE
        return path.exists() and read(path)[1]["training"].get("step") == self.trainer.step

    def _any(self, here: bool) -> bool:
        """Whether it is so in any of the processes."""
        return bool(self.ranks.sum(torch.tensor(float(here), device=self.device)).item())

    def save(self, held_out_loss: float | None) -> None:
        """Begin to write a checkpoint: what is in it is copied now, and reaches the disk while training goes on."""
        trainer, folder = self.trainer, self.config.out
        training = {"config": self.shaping, "step": trainer.step, "held_out_loss": held_out_loss}
        checkpoint = Checkpoint(trainer.model, self.data.tasks, self.data.text, training)
        model, state = checkpoint.to_bytes(getattr(torch, self.config.weights)), trainer.to_bytes()
        self._wait()
        best = held_out_loss is not None and held_out_loss < _lowest_loss(folder / BEST / FILE)
        files = [(folder / BEST / FILE, model)] * best + [(folder / FILE, model), (folder / STATE, state)]
        self._saving, self._at = self._disk.submit(_write, files), trainer.step

    def _wait(self) -> None:
        """Until the latest checkpoint is on disk; raises OSError if it could not be written."""
        if self._saving is not None:
            self._saving.result()


def _write(files: list[tuple[Path, bytes]]) -> None:
    """One after the other. The state comes last: what a killed run has not recorded as done, it does again."""
    for path, data in files:
        write_files({path: data})


def _lowest_loss(path: Path) -> float:
    """The loss of the best model so far."""
    loss = read(path)[1]["training"].get("held_out_loss") if path.exists() else None
    return float("inf") if loss is None else float(loss)


def _said(entry: dict[str, Any]) -> Iterator[str]:
    """What the progress bar tells of a step."""
    yield f"loss {entry['loss']:.4f}"
    if "held_out_loss" in entry:
        yield f"held out {entry['held_out_loss']:.4f}"
    yield f"{entry['tokens_per_second']:,.0f} tokens/s"
