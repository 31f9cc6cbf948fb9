"""How to train: the arguments of `gato-agent train`, and the learning rate of each step."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from gato_agent.envs.errors import UsageError, at_least

LEARNING_RATE = {"nano": 1e-3, "tiny": 6e-4, "small": 1e-4, "baseline": 2e-4, "large": 1e-4}


@dataclass(frozen=True)
class TrainConfig:
    """Train an agent on collected episodes."""

    data: tuple[Path, ...] = (Path("data"),)
    """Folders that `gato-agent collect --out` wrote; all their tasks are learned together, those of one id as one."""
    out: Path = Path("runs/gato")
    """Run folder: config.json, model.safetensors (the agent), state.safetensors (to resume), log.jsonl."""
    size: Literal["nano", "tiny", "small", "baseline", "large"] = "nano"
    """Size of the model; the last three are the paper's."""
    shape: str = "{}"
    """Fields of the size to change, as JSON: {"context": 256, "layers": 6}."""
    init: Path | None = None
    """Checkpoint whose weights and text model to begin with, of the same size."""
    steps: int = 400
    """Optimizer steps; the schedule depends on them."""
    batch_size: int = 4
    """Windows per step; a window is twice the context long."""
    learning_rate: float | None = None
    """Peak learning rate; by default 1e-3 (nano), 6e-4 (tiny), 1e-4 (small, large), 2e-4 (baseline)."""
    warmup: int = 50
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: a cosine to a tenth, or wsd: a constant rate, and a linear decay to zero in the end."""
    decay_steps: int = 0
    """Of wsd: the last steps, in which the rate decays. A run without can be resumed with them and more --steps."""
    weight_decay: float = 0.1
    """Of matrices, as in AdamW."""
    smooth_bins: float = 4.0
    """Standard deviation, in bins, by which targets of continuous actions are spread over neighbours; 0 for none."""
    text_pieces: int | None = None
    """Tokens that hold a text observation, shorter ones being padded; by default the catalogue's number, or 32."""
    text_model: Path | None = None
    """A SentencePiece .model of your own; by default one is trained on the texts in the data, if there are any."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Precision in which model.safetensors is stored; training and play use float32."""
    mixture: str = "{}"
    """How often tasks are drawn, as JSON: {"LunarLander-v3": 3} for three times as often as those not named."""
    save_every: int = 50
    """Steps between checkpoints."""
    holdout: float = 0.0
    """Share of each task's episodes, the last ones, that is not learned from: at every checkpoint the loss on them is
    logged, and the model for which it is lowest is kept in OUT/best."""
    minutes: float | None = None
    """Save and stop after this long; --resume goes on."""
    seed: int = 0
    """Of initial weights, windows and stochastic depth."""
    device: str = "auto"
    """auto, cpu or cuda."""
    num_threads: int | None = None
    """CPU threads; by default as many as there are cores. Part of what makes a run bit-exact."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the run in `out` from its last checkpoint."""

    def check(self) -> None:
        """Raise UsageError for an option that cannot be."""
        at_least(1, steps=self.steps, batch_size=self.batch_size, save_every=self.save_every)
        at_least(1, text_pieces=self.text_pieces, num_threads=self.num_threads)
        at_least(0, warmup=self.warmup, seed=self.seed, smooth_bins=self.smooth_bins, weight_decay=self.weight_decay)
        at_least(0, decay_steps=self.decay_steps, holdout=self.holdout, minutes=self.minutes)
        if self.holdout > 0.5:
            raise UsageError(f"--holdout {self.holdout}: at most 0.5, the rest is learned from")
        if self.decay_steps and (self.schedule != "wsd" or self.decay_steps > self.steps):
            raise UsageError(f"--decay-steps {self.decay_steps}: for --schedule wsd, and at most --steps {self.steps}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UsageError(f"--learning-rate {self.learning_rate}: it must be above 0")

    def rate(self, step: int) -> float:
        """Learning rate of a step, a function of the step alone."""
        peak = self.learning_rate or LEARNING_RATE[self.size]
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        if self.schedule == "wsd":  # warm-up, stable, decay (Hu et al. 2024)
            return peak * min(1.0, (self.steps - step) / (self.decay_steps or 1))
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))

    def shaping(self) -> dict[str, Any]:
        """The arguments that shape the result, as JSON; not where its files are, nor when it stops to go on later."""
        places = ("data", "out", "resume", "text_model", "init", "minutes")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in places}

    def check_past(self, before: Mapping[str, Any], step: int) -> None:
        """Raise UsageError if a run with `before`'s steps would not have come to `step` by the same learning rates."""
        then = dataclasses.replace(self, steps=int(before["steps"]), decay_steps=int(before["decay_steps"]))
        if any(then.rate(i) != self.rate(i) for i in range(step)):
            raise UsageError(
                f"cannot resume {self.out} with --steps {self.steps} --decay-steps {self.decay_steps}: the rates of "
                f"its first {step} steps would have been others; only --schedule wsd can be longer, before its decay"
            )
