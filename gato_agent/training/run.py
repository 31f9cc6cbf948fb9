"""A training run in its folder: step after step, judged, saved and logged."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from gato_agent.checkpoints.checkpoint import FILE, Checkpoint, read
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.token_file import FILE as TOKENS
from gato_agent.dataset.token_file import Data
from gato_agent.envs.errors import GatoError
from gato_agent.envs.files import below, still_there, write_files
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.progress import progress
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.training.flops import peak_flops, training_flops
from gato_agent.training.loggers import Loggers
from gato_agent.training.trainer import STATE, StepMetrics, Trainer
from gato_agent.training.validation import validate_in_env

JUDGED = ("held_out_loss", "returns", "worth")  # what a checkpoint keeps of what was measured of it
BEST = "best"  # folder of the model with the highest returns, or else the lowest loss on held-out episodes


class Run:
    """A trainer with its data and its folder.

    Args:
        trainer: the model as it is, and what moves it.
        windows: what is learned from.
        data: where these come from, with the held-out episodes.
        fingerprint: all that makes the run what it is, for its files.
        device: cpu or cuda.
    """

    def __init__(
        self, trainer: Trainer, windows: BatchSampler, data: Data, fingerprint: dict[str, Any], device: str
    ) -> None:
        self.trainer, self.windows, self.data, self.fingerprint, self.device = (
            trainer,
            windows,
            data,
            fingerprint,
            device,
        )
        self.config, self.ranks = trainer.config, trainer.ranks
        held = data.held_out
        window, loss_per_timestep = windows.window, windows.loss_per_timestep
        self.held_out = (
            BatchSampler(held, window=window, batch_size=1, demos=1.0, loss_per_timestep=loss_per_timestep)
            if held
            else None
        )
        self.families = sorted(set(data.families))
        self._disk = ThreadPoolExecutor(1)
        self._saving: Future[None] | None = None
        self._at = -1  # step of the latest checkpoint
        self._best = _rank(_training(below(self.config.out, BEST) / FILE))  # what cannot be read is none

    def to_the_end(self) -> Path:
        """Train to the last step or minute, saving now and then and at the end."""
        config, trainer = self.config, self.trainer
        console = plain_console(soft_wrap=True, quiet=not self.ranks.first)
        console.print(
            f"{len(self.data.tasks)} task(s), {self.data.tokens:,} tokens; {config.size}: "
            f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters on {self.device}; "
            f"steps {trainer.step} to {config.steps} of {config.batch_size * self.windows.window:,} tokens"
        )
        if config.precision == "bfloat16" and self.device == "cpu" and self.ranks.first and not trainer.step:
            slower = peak_flops("cpu") / peak_flops("cpu", torch.bfloat16)
            if slower > 1.5:
                console.print(f"this processor multiplies bfloat16 {slower:.0f} times more slowly than float32: "
                              "--precision float32 takes less time here")  # fmt: skip
        bar = progress(console, str(config.out), config.steps, "steps", trainer.step, every=10.0)
        deadline = time.monotonic() + 60 * config.minutes if config.minutes is not None else float("inf")
        first = self.ranks.first
        log = Loggers(config.logger, config.out, self.fingerprint, trainer.step) if first else nullcontext()
        with self._disk, log as lines, bar as update:
            for entry in self.steps():
                late = self._any(time.monotonic() >= deadline) if config.minutes is not None else False
                play, due = self._due(config.eval_every), self._due(config.save_every) or late
                checkpoint = self.checkpoint() if play or due else None
                if lines is not None:
                    still_there(config.out)  # rather than at the end, when all would be lost
                    if checkpoint:
                        entry |= self.evaluate(checkpoint, play, lambda text: update(trainer.step, text))
                    lines.log(entry)
                    update(trainer.step, ", ".join(_said(entry)))
                if checkpoint:
                    self.save(checkpoint, entry)
                if late:
                    break
            if self._at != trainer.step and not self._complete():
                checkpoint = self.checkpoint()
                self.save(checkpoint, self.evaluate(checkpoint, False, lambda text: None) if first else {})
            self._wait()
        finished = trainer.step >= config.steps
        if finished and first:
            (config.out / TOKENS).unlink(missing_ok=True)  # other processes keep what they have mapped
        console.print(f"{'trained' if finished else f'stopped at step {trainer.step}, continue with --resume'}: "
                      f"{config.out / FILE}")  # fmt: skip
        return config.out / FILE

    def _due(self, every: int) -> bool:
        """Whether something that is done every so many steps, and in the end, is to be done now."""
        return every > 0 and (self.trainer.step % every == 0 or self.trainer.step == self.config.steps)

    def checkpoint(self) -> Checkpoint:
        """The model as it is now; all processes must ask for it together, and the first one has it."""
        training = {"config": self.fingerprint, "step": self.trainer.step}
        return Checkpoint(self.trainer.whole(), self.data.tasks, self.data.text, training, str(self.config.out))

    def evaluate(self, checkpoint: Checkpoint, play: bool, say: Callable[[str], None]) -> dict[str, Any]:
        """What is measured at a checkpoint: the loss on held-out episodes, and returns where they are wanted."""
        found: dict[str, Any] = {}
        if self.held_out or play:
            checkpoint.model.to(self.device).eval()
        if self.held_out:
            found["held_out_loss"] = self.trainer.validate(self.held_out, model=checkpoint.model)
        if play:
            tasks = [find_spec(env).id for env in self.config.eval_env] or list(self.data.tasks)
            kwargs = parse_kwargs(self.config.eval_env_kwargs, "--eval-env-kwargs")
            returns = validate_in_env(checkpoint, tasks, self.config.eval_episodes, self.device, say, kwargs)
            found["returns"] = {task: score.mean for task, score in returns.tasks.items()}
            found["scores"] = {task: score.normalized for task, score in returns.tasks.items()}
            found |= {"worth": returns.selection_metric} if returns.tasks else {}
            found |= {"not_played": returns.failed} if returns.failed else {}
        return found

    def steps(self) -> Iterator[dict[str, Any]]:
        """Train to the last step, yielding one log entry per step."""
        trainer, ranks = self.trainer, self.ranks
        peak = peak_flops(self.device, getattr(torch, self.config.precision))
        first, start = trainer.step, time.perf_counter()
        while trainer.step < self.config.steps:
            began = time.perf_counter()
            n = self.config.accumulate
            parts = [self.windows.batch(trainer.step, ranks.rank + ranks.size * i, ranks.size * n) for i in range(n)]
            metrics = trainer.update(*(part.to(self.device) for part in parts))
            now = time.perf_counter()
            speed = {
                "tokens_per_second": ranks.size * sum(part.tokens.numel() for part in parts) / (now - began),
                "utilisation": sum(training_flops(trainer.model.config, part) for part in parts) / (now - began) / peak,
                "seconds_left": (now - start) / (trainer.step - first) * (self.config.steps - trainer.step),
            }
            yield self._entry(metrics) | speed

    def _entry(self, metrics: StepMetrics) -> dict[str, Any]:
        """What the log says of a step, but for its speed."""
        losses = dict(zip(self.families, metrics.families, strict=True))
        return {
            "step": self.trainer.step,
            "loss": metrics.loss,
            **({"marginal_loss": metrics.marginal} if self.trainer.model.action_decoder else {}),
            "family_loss": {family: loss for family, loss in losses.items() if loss is not None},
            "gradient_norm": metrics.norm,
            "learning_rate": self.config.rate(self.trainer.step - 1),
        }

    def _complete(self) -> bool:
        """Whether a run that is resumed when all was done has a model to show for it."""
        return _training(self.config.out / FILE).get("step") == self.trainer.step

    def _any(self, here: bool) -> bool:
        """Whether it is so in any of the processes."""
        return bool(self.ranks.sum(torch.tensor(float(here), device=self.device)).item())

    def save(self, checkpoint: Checkpoint, found: dict[str, Any]) -> None:
        """Begin to write a checkpoint: what is in it is copied now, and reaches the disk while training goes on.

        Of a sharded model each process writes its own part, and training waits for it.
        """
        trainer, folder = self.trainer, self.config.out
        self._at = trainer.step
        if self.ranks.first:
            checkpoint.training.update({key: found.get(key) for key in JUDGED})
            model = checkpoint.to_bytes(getattr(torch, self.config.weights))
            state = [] if self.config.fsdp else [(folder / STATE, trainer.to_bytes())]
            self._wait()
            best = _rank(found) > self._best
            self._best = max(self._best, _rank(found))
            files = [(folder / BEST / FILE, model)] * best + [(folder / FILE, model), *state]
            self._saving = self._disk.submit(_write, files)
        if self.config.fsdp:
            self._wait()
            trainer.save_shards(folder)

    def _wait(self) -> None:
        """Until the latest checkpoint is on disk; raises OSError if it could not be written."""
        if self._saving is not None:
            self._saving.result()


def _write(files: list[tuple[Path, bytes]]) -> None:
    """One after the other. The state comes last: what a killed run has not recorded as done, it does again."""
    for path, data in files:
        write_files({path: data})


def _training(path: Path) -> dict[str, Any]:
    """How the model in a file came about; nothing where there is none, or none that can be read."""
    try:
        found = dict(read(path)[1]["training"]) if path.exists() else {}
    except (GatoError, LookupError, TypeError, ValueError):
        return {}
    return {key: value for key, value in found.items() if key not in JUDGED or not isinstance(value, str)}


def _rank(found: Mapping[str, Any]) -> tuple[int, float]:
    """What puts one model above another: returns where it was played, else the loss on held-out episodes."""
    if found.get("worth") is not None:
        return 2, found["worth"]
    return (1, -found["held_out_loss"]) if found.get("held_out_loss") is not None else (0, 0.0)


def _said(entry: dict[str, Any]) -> Iterator[str]:
    """What the progress bar tells of a step."""
    yield f"loss {entry['loss']:.4f}"
    yield from (f"{task} {mean:.1f}" for task, mean in entry.get("returns", {}).items())
    yield from (f"{task} not played: {error}" for task, error in entry.get("not_played", {}).items())
    if "held_out_loss" in entry:
        yield f"held out {entry['held_out_loss']:.4f}"
    yield f"{entry['tokens_per_second']:,.0f} tokens/s ({entry['utilisation']:.0%} of peak)"
    yield f"{timedelta(seconds=round(entry['seconds_left']))} left"
