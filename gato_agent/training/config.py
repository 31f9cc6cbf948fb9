"""Training config: the options of `gato-agent train`, their checks, and the learning-rate schedule."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gato_agent.envs.errors import UsageError, at_least
from gato_agent.model.config import SIZES
from gato_agent.native.build import check_threads
from gato_agent.training.option_groups import (
    DataOptions,
    EvaluationOptions,
    NetworkOptions,
    OptimizationOptions,
    RunOptions,
)

DEFAULTS_ADDED = {
    "optimizer": "adamw",
    "accumulate": 1,
    "min_segment": 0,
    "loss_over": "tokens",
}  # options that the config fingerprint leaves out at these values
# A constant learning rate, as in the paper's appendix; SIZES has the other defaults of fine-tuning.
FINE_TUNING: dict[str, Any] = {"schedule": "wsd", "warmup": 0, "weight_decay": 0.0}


@dataclass(frozen=True)
class TrainConfig(RunOptions, EvaluationOptions, OptimizationOptions, NetworkOptions, DataOptions):
    """Train an agent on collected episodes by behaviour cloning."""

    @classmethod
    def fine_tuning(cls, size: str, init: str, **options: Any) -> Self:
        """Fine-tuning defaults for a checkpoint of a size, with `options` in place of some of them."""
        return cls(**{**FINE_TUNING, **SIZES[size].fine_tuning, "size": size, "init": init, **options})

    def check(self) -> None:
        """Raise UsageError for an option out of range, or options that exclude each other."""
        at_least(1, steps=self.steps, batch_size=self.batch_size, save_every=self.save_every)
        at_least(1, text_pieces=self.text_pieces, accumulate=self.accumulate)
        check_threads(self.num_threads)
        at_least(0, min_segment=self.min_segment)
        at_least(
            0,
            warmup=self.warmup,
            seed=self.seed,
            bin_label_smoothing=self.bin_label_smoothing,
            weight_decay=self.weight_decay,
        )
        at_least(
            0, decay_steps=self.decay_steps, holdout=self.holdout, minutes=self.minutes, eval_every=self.eval_every
        )
        at_least(1, eval_episodes=self.eval_episodes)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout {self.dropout}: at least 0 and below 1")
        if self.holdout > 0.5:
            raise UsageError(f"--holdout {self.holdout}: at most 0.5, so that episodes are left for training")
        if self.decay_steps and (self.schedule != "wsd" or self.decay_steps > self.steps):
            raise UsageError(f"--decay-steps {self.decay_steps}: for --schedule wsd, and at most --steps {self.steps}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UsageError(f"--learning-rate {self.learning_rate}: it must be above 0")

    def check_processes(self, count: int) -> None:
        """Raise UsageError for an option that excludes this number of processes."""
        if self.fsdp and count == 1:
            raise UsageError("--fsdp shards the model among processes: start them with torchrun -m gato_agent train")
        if self.fsdp and self.optimizer != "adamw":
            raise UsageError("--fsdp supports AdamW: leave --optimizer out")
        if self.batch_size < count * self.accumulate:
            raise UsageError(
                f"--batch-size {self.batch_size}: {count} process(es) need a sequence each in each of "
                f"--accumulate {self.accumulate} parts: raise --batch-size"
            )

    @property
    def peak_rate(self) -> float:
        """Highest learning rate."""
        return self.learning_rate or SIZES[self.size].learning_rate

    def correction_rate(self, step: int) -> float:
        """Learning rate of the action decoder's correction: 3 times the peak rate, falling with the rate's square.

        It has little to learn, and learns it fast; its last steps have to be small (docs/ablations.md).
        """
        return 3.0 * self.rate(step) ** 2 / self.peak_rate

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0; a function of the step alone."""
        peak = self.peak_rate
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        if self.schedule == "wsd":  # warm-up, stable, decay (Hu et al. 2024)
            return peak * min(1.0, (self.steps - step) / (self.decay_steps or 1))
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))

    def fingerprint(self) -> dict[str, Any]:
        """Config fingerprint: options that determine the trained weights, as JSON."""
        places = ("data", "out", "resume", "text_model", "init", "minutes", "logger")
        watched = ("eval_every", "eval_env", "eval_episodes", "eval_env_kwargs")
        options = {key: value for key, value in dataclasses.asdict(self).items() if key not in places + watched}
        return options | {key: None for key, value in DEFAULTS_ADDED.items() if options[key] == value}

    def check_past(self, before: Mapping[str, Any], step: int) -> None:
        """Raise UsageError if a resumed run has taken more steps, or at other learning rates."""
        if step > self.steps:
            raise UsageError(f"cannot resume {self.out} with --steps {self.steps}: it has taken {step} already")
        then = dataclasses.replace(self, steps=int(before["steps"]), decay_steps=int(before["decay_steps"]))
        if any(then.rate(i) != self.rate(i) for i in range(step)):
            raise UsageError(
                f"cannot resume {self.out} with --steps {self.steps} --decay-steps {self.decay_steps}: this changes "
                f"the learning rates of its first {step} steps; only --schedule wsd can be extended, before its decay"
            )
