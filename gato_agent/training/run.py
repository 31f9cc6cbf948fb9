"""Training run in a folder: the training loop with validation, checkpoints and logs."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gato_agent.checkpoints.checkpoint import FILE, Checkpoint, read
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.token_file import FILE as TOKENS
from gato_agent.dataset.token_file import Data
from gato_agent.envs.errors import GatoError
from gato_agent.envs.files import below, still_there, write_files
from gato_agent.envs.io.console import plain_console, plural
from gato_agent.envs.io.progress import progress
from gato_agent.envs.io.stop_signal import StopSignal
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.training.flops import RunningPeak, peak_flops, training_flops
from gato_agent.training.loggers import Loggers
from gato_agent.training.trainer import STATE, StepMetrics, Trainer
from gato_agent.training.validation import validate_in_env

VALIDATION_METRICS = ("held_out_loss", "returns", "selection_metric")  # kept in the header of a checkpoint
RENAMED = {"worth": "selection_metric"}  # of version 0.1
BEST = "best"  # folder of the model with the highest returns in play, or else the lowest held-out loss


class Run:
    """Training loop of one run folder.

    Args:
        trainer: model, optimizer and step.
        sampler: of training batches.
        data: training data, with the held-out episodes.
        fingerprint: config fingerprint, written to the run's files.
        device: cpu or cuda.
    """

    def __init__(
        self, trainer: Trainer, sampler: BatchSampler, data: Data, fingerprint: dict[str, Any], device: str
    ) -> None:
        self.trainer, self.sampler, self.data = trainer, sampler, data
        self.fingerprint, self.device = fingerprint, device
        self.config, self.distributed = trainer.config, trainer.distributed
        self.held_out = BatchSampler(
            data.held_out, sequence_length=sampler.sequence_length, batch_size=1, demos=1.0,
            loss_per_timestep=sampler.loss_per_timestep,
        ) if data.held_out else None  # fmt: skip
        self.families = sorted(set(data.families))
        self._disk = ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None
        self._at = -1  # step of the latest checkpoint
        self._best = _selection_key(_training_of(below(self.config.out, BEST) / FILE))

    def to_the_end(self) -> Path:
        """Train to the last step or minute, with checkpoints in between and at the end; returns the model's path."""
        config, trainer = self.config, self.trainer
        console = plain_console(soft_wrap=True, quiet=not self.distributed.is_main)
        self._print_beginning(console)
        bar = progress(console, str(config.out), config.steps, "steps", trainer.step)
        deadline = time.monotonic() + 60 * config.minutes if config.minutes is not None else float("inf")
        is_main = self.distributed.is_main
        log = Loggers(config.logger, config.out, self.fingerprint, trainer.step) if is_main else nullcontext()
        stop = StopSignal(active=self.distributed.size == 1)
        with self._disk, log as lines, bar as update, stop:
            for entry in self.steps():
                late = self._any(time.monotonic() >= deadline) if config.minutes is not None else False
                late = late or stop.received  # only of a single process
                play, due = self._due(config.eval_every), self._due(config.save_every) or late
                checkpoint = self.checkpoint() if play or due else None
                if lines is not None:
                    still_there(config.out)  # an error as early as possible if the folder was deleted
                    if checkpoint:
                        entry |= self.evaluate(checkpoint, play, lambda text: update(trainer.step, text))
                    lines.log(entry)
                    update(trainer.step, ", ".join(_progress_parts(entry)))
                if checkpoint:
                    self.save(checkpoint, entry)
                if late:
                    break
            if self._at != trainer.step and not self._complete():
                checkpoint = self.checkpoint()
                self.save(checkpoint, self.evaluate(checkpoint, False, lambda text: None) if is_main else {})
            self._wait()
        finished = trainer.step >= config.steps
        if finished and is_main:
            (config.out / TOKENS).unlink(missing_ok=True)  # other processes keep their mapping
        resume = "" if stop.received else ", continue with --resume"  # an interrupt says so by itself
        console.print(f"{'trained' if finished else f'stopped at step {trainer.step:,}{resume}'}: {config.out / FILE}")
        if stop.received and not finished:
            raise KeyboardInterrupt
        return config.out / FILE

    def _print_beginning(self, console: Console) -> None:
        """Print sizes and devices, and a warning where bfloat16 is slow."""
        config, trainer = self.config, self.trainer
        console.print(
            f"{plural(len(self.data.tasks), 'task')}, {self.data.tokens:,} tokens; {config.size}: "
            f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters on {self.device}; "
            f"steps {trainer.step} to {config.steps} of {config.batch_size * self.sampler.sequence_length:,} tokens"
        )
        if config.precision == "bfloat16" and self.device == "cpu" and self.distributed.is_main and not trainer.step:
            slower = peak_flops("cpu") / peak_flops("cpu", torch.bfloat16)
            if slower > 1.5:
                console.print(f"this processor multiplies bfloat16 {slower:.0f} times more slowly than float32: "
                              "--precision float32 takes less time here")  # fmt: skip

    def _due(self, every: int) -> bool:
        """True if the current step is a multiple of `every`, or the last; never for 0."""
        return every > 0 and (self.trainer.step % every == 0 or self.trainer.step == self.config.steps)

    def checkpoint(self) -> Checkpoint:
        """Checkpoint of the current step, complete on the main process; a collective under FSDP."""
        training = {"config": self.fingerprint, "step": self.trainer.step}
        return Checkpoint(self.trainer.whole(), self.data.tasks, self.data.text, training, str(self.config.out))

    def evaluate(self, checkpoint: Checkpoint, play: bool, report_progress: Callable[[str], None]) -> dict[str, Any]:
        """Validation metrics of a checkpoint: held-out loss, and with `play` the returns of short episodes."""
        metrics: dict[str, Any] = {}
        if self.held_out or play:
            checkpoint.model.to(self.device).eval()
        if self.held_out:
            metrics["held_out_loss"] = self.trainer.validate(self.held_out, model=checkpoint.model)
        if play:
            tasks = [find_spec(env).id for env in self.config.eval_env] or list(self.data.tasks)
            kwargs = parse_kwargs(self.config.eval_env_kwargs, "--eval-env-kwargs")
            validation = validate_in_env(
                checkpoint, tasks, self.config.eval_episodes, self.device, report_progress, kwargs
            )
            metrics["returns"] = {task: score.mean for task, score in validation.tasks.items()}
            metrics["scores"] = {task: score.normalized for task, score in validation.tasks.items()}
            metrics |= {"selection_metric": validation.selection_metric} if validation.tasks else {}
            metrics |= {"not_played": validation.failed} if validation.failed else {}
        return metrics

    def steps(self) -> Iterator[dict[str, Any]]:
        """Train to the last step, yielding one log entry a step."""
        trainer, distributed = self.trainer, self.distributed
        peak = RunningPeak(self.device, getattr(torch, self.config.precision))
        first, start = trainer.step, time.perf_counter()
        while trainer.step < self.config.steps:
            began = time.perf_counter()
            n = self.config.accumulate
            parts = [
                self.sampler.batch(trainer.step, distributed.rank + distributed.size * i, distributed.size * n)
                for i in range(n)
            ]
            metrics = trainer.update(*(part.to(self.device) for part in parts))
            now = time.perf_counter()
            speed = {
                "tokens_per_second": distributed.size * sum(part.tokens.numel() for part in parts) / (now - began),
                "utilisation": peak.utilisation(
                    sum(training_flops(trainer.model.config, part) for part in parts), now - began
                ),
                "seconds_left": (now - start) / (trainer.step - first) * (self.config.steps - trainer.step),
            }
            yield self._entry(metrics) | speed

    def _entry(self, metrics: StepMetrics) -> dict[str, Any]:
        """Log entry of a step, without its speed."""
        losses = dict(zip(self.families, metrics.families, strict=True))
        return {
            "step": self.trainer.step,
            "loss": metrics.loss,
            **({"marginal_loss": metrics.marginal} if self.trainer.model.corrections() else {}),
            "family_loss": {family: loss for family, loss in losses.items() if loss is not None},
            "gradient_norm": metrics.norm,
            "learning_rate": self.config.rate(self.trainer.step - 1),
        }

    def _complete(self) -> bool:
        """True if the model file is of the current step, as when a complete run is resumed."""
        return _training_of(self.config.out / FILE).get("step") == self.trainer.step

    def _any(self, local: bool) -> bool:
        """True if `local` is true in any process; a collective."""
        return bool(self.distributed.sum(torch.tensor(float(local), device=self.device)).item())

    def save(self, checkpoint: Checkpoint, metrics: dict[str, Any]) -> None:
        """Save a checkpoint asynchronously: it is copied first and written while training continues.

        Under FSDP each process writes its own shard, and training waits.
        """
        trainer, folder = self.trainer, self.config.out
        self._at = trainer.step
        if self.distributed.is_main:
            checkpoint.training.update({key: metrics.get(key) for key in VALIDATION_METRICS})
            model = checkpoint.to_bytes(getattr(torch, self.config.save_dtype))
            state = [] if self.config.fsdp else [(folder / STATE, trainer.to_bytes())]
            self._wait()
            best = _selection_key(metrics) > self._best
            self._best = max(self._best, _selection_key(metrics))
            files = [(folder / BEST / FILE, model)] * best + [(folder / FILE, model), *state]
            self._saving = self._disk.submit(_write, files)
        if self.config.fsdp:
            self._wait()
            trainer.save_shards(folder)

    def _wait(self) -> None:
        """Block until the latest checkpoint is on disk; raises OSError if it could not be written."""
        if self._saving is not None:
            self._saving.result()


def _write(files: list[tuple[Path, bytes]]) -> None:
    """Write files in order, the training state last: a killed run repeats the steps since that state."""
    for path, data in files:
        write_files({path: data})


def _training_of(path: Path) -> dict[str, Any]:
    """Training metadata in a model file's header; empty if the file is missing or cannot be read."""
    try:
        training = dict(read(path)[1]["training"]) if path.exists() else {}
    except (GatoError, LookupError, TypeError, ValueError):
        return {}
    return {
        RENAMED.get(str(key), str(key)): value
        for key, value in training.items()
        if key not in VALIDATION_METRICS or not isinstance(value, str)
    }


def _selection_key(metrics: Mapping[str, Any]) -> tuple[int, float]:
    """Sort key of checkpoints: the selection metric of returns in play, else the negative held-out loss."""
    if metrics.get("selection_metric") is not None:
        return 2, metrics["selection_metric"]
    return (1, -metrics["held_out_loss"]) if metrics.get("held_out_loss") is not None else (0, 0.0)


def _progress_parts(entry: dict[str, Any]) -> Iterator[str]:
    """Parts of the progress bar's text for a step."""
    yield f"loss {entry['loss']:.4f}"
    yield from (f"{task} {mean:.1f}" for task, mean in entry.get("returns", {}).items())
    yield from (f"{task} could not be played: {error}" for task, error in entry.get("not_played", {}).items())
    if "held_out_loss" in entry:
        yield f"held out {entry['held_out_loss']:.4f}"
    yield f"{entry['tokens_per_second']:,.0f} tokens/s ({entry['utilisation']:.0%} of peak)"
