"""How to train: the arguments of `gato-agent train`, and the learning rate of each step."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tyro

from gato_agent.envs.errors import UsageError, at_least

Precision = Literal["float32", "bfloat16"]
Size = Literal["nano", "tiny", "small", "baseline", "large"]
DEFAULTS_ADDED = {
    "optimizer": "adamw",
    "accumulate": 1,
    "ema": 0.0,
    "min_segment": 0,
    "loss_over": "tokens",
}  # what runs were before there was a choice
LEARNING_RATE = {"nano": 1e-3, "tiny": 6e-4, "small": 1e-4, "baseline": 2e-4, "large": 1e-4}
# Adam at a constant rate, as the paper does it (appendix). For our own sizes the rate is that of training from nothing:
# measured with nano, whose loss then falls faster than with a tenth or a third of it (docs/your-own-environment.md).
FINE_TUNING: dict[str, Any] = {"schedule": "wsd", "warmup": 0, "weight_decay": 0.0}
PAPER_FINETUNE: dict[str, Any] = {"learning_rate": 1e-5, "batch_size": 64, "steps": 10_000, "dropout": 0.1}
SMALL_FINETUNE: dict[str, Any] = {"batch_size": 4, "steps": 200}


@dataclass(frozen=True)
class TrainConfig:
    """Train an agent on collected episodes."""

    data: tuple[Path, ...] = (Path("data"),)
    """Folders that `gato-agent collect --out` wrote; all their tasks are learned together, those of one id as one."""
    out: Path = Path("runs/gato")
    """Run folder: config.json, model.safetensors (the agent), state.safetensors (to resume), log.jsonl; and until it
    is complete tokens.safetensors, which all processes map and --resume finds."""
    size: Size = "nano"
    """Size of the model; the last three are the paper's. With --init it is that of the checkpoint."""
    shape: str = "{}"
    """Fields of the size to change, as JSON: {"context": 256, "layers": 6}. With --init as the checkpoint has them, but
    for the context."""
    init: str | None = None
    """Fine-tune: a run folder or checkpoint whose weights and text model to begin with, or `shipped` for those in the
    package. Its tasks need not be those of the data. Other options then have other defaults: add --help to see them."""
    steps: int = 400
    """Optimizer steps; the schedule depends on them."""
    batch_size: int = 4
    """Windows per step; a window is twice the context long."""
    min_segment: int = 0
    """Tokens of the shortest pieces of episodes that fill windows; their lengths are random, up to a window, so that a
    batch holds more of them. 0: as long as there is room."""
    accumulate: int = 1
    """Parts in which a step's windows are worked through, one after the other, where memory is short."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the matrices of the blocks, AdamW for tables, vectors and the patch tower."""
    ema: float = 0.0
    """Save, judge and play the average of the weights, of which each step keeps this share (.999); 0 for none."""
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
    dropout: float = 0.0
    """Share of the values that each sub-layer adds which is left out in training."""
    bin_label_smoothing: float = 4.0
    """Standard deviation, in bins, by which targets of continuous actions are spread over neighbours; 0 for none."""
    loss_over: Literal["tokens", "timesteps"] = "tokens"
    """What counts alike in the loss: action tokens, or timesteps, whatever their number of action tokens, of which a
    humanoid has seventeen and a grid world one."""
    text_pieces: int | None = None
    """Tokens that hold a text observation, shorter ones being padded; by default the catalogue's number, or 32, or
    half as many again as the longest text in the data takes."""
    text_model: Path | None = None
    """A SentencePiece .model of your own; by default one is trained on the texts in the data, if there are any."""
    prompt: Literal["auto", "none", "text", "demo"] = "auto"
    """What episodes begin with, seen for ever: text is their instruction, said only there, or the name of the task;
    demo, in a quarter of the cases, a piece of another episode. auto: as in --init, else text where it tells apart."""
    precision: Precision = "float32"
    """Of matrix products in training: bfloat16 is faster where the hardware has it (AVX-512 BF16, AMX, CUDA), and far
    slower elsewhere. Weights, sums, norms, the loss and, on a CPU, the optimizer are of float32 either way."""
    compile: bool = True
    """Attention that is compiled at first use: in C++ on a CPU with a compiler, FlexAttention on a GPU. Part of what
    makes a run bit-exact."""
    weights: Precision = "float32"
    """Precision in which model.safetensors is stored; play uses float32."""
    mixture: str = "{}"
    """Shares of the tokens, 1 for each task that is not named, as JSON: {"LunarLander-v3": 3, "babyai": 0.5}; a family
    stands for each of its tasks."""
    save_every: int = 50
    """Steps between checkpoints."""
    holdout: float = 0.0
    """Share of each task's episodes, the last ones, that is not learned from: at every checkpoint the loss on them is
    logged, and the model for which it is lowest is kept in OUT/best."""
    eval_every: int = 0
    """Steps between short evaluations: returns in play are logged, and OUT/best is the model with the highest mean
    normalised score instead; 0 for none."""
    eval_env: tuple[str, ...] = ()
    """Tasks to be played then, by default all that are learned; module:Env-v0 imports the module first."""
    eval_episodes: int = 5
    """Episodes of each, on seeds from 900,000 on."""
    eval_env_kwargs: str = "{}"
    """Arguments of tasks that are played then, as JSON, where the data have others than numbers and words in theirs."""
    minutes: float | None = None
    """Save and stop after this long; --resume goes on."""
    seed: int = 0
    """Of initial weights, windows and stochastic depth."""
    device: str = "auto"
    """auto, cpu or cuda."""
    fsdp: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Under torchrun: divide weights, gradients and moments among the GPUs (FSDP2), for a model too large for one."""
    num_threads: int | None = None
    """CPU threads; by default as many as there are cores. Part of what makes a run bit-exact."""
    logger: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the figures of log.jsonl go besides."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue the run in `out` from its last checkpoint."""

    @classmethod
    def fine_tuning(cls, size: str, init: str, **given: Any) -> Self:
        """The defaults for going on from a checkpoint of that size, and what was given instead of them."""
        own = SMALL_FINETUNE if size in ("nano", "tiny") else PAPER_FINETUNE
        return cls(**{**FINE_TUNING, **own, "size": size, "init": init, **given})

    def check(self) -> None:
        """Raise UsageError for an option that cannot be."""
        at_least(1, steps=self.steps, batch_size=self.batch_size, save_every=self.save_every)
        at_least(1, text_pieces=self.text_pieces, num_threads=self.num_threads, accumulate=self.accumulate)
        at_least(0, min_segment=self.min_segment)
        if not 0 <= self.ema < 1:
            raise UsageError(f"--ema {self.ema}: at least 0 and below 1")
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
            raise UsageError(f"--holdout {self.holdout}: at most 0.5, the rest is learned from")
        if self.decay_steps and (self.schedule != "wsd" or self.decay_steps > self.steps):
            raise UsageError(f"--decay-steps {self.decay_steps}: for --schedule wsd, and at most --steps {self.steps}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UsageError(f"--learning-rate {self.learning_rate}: it must be above 0")

    def check_processes(self, count: int) -> None:
        """Raise UsageError for an option that cannot be with so many processes."""
        if self.fsdp and count == 1:
            raise UsageError("--fsdp divides the model among processes: start them with torchrun -m gato_agent train")
        if self.fsdp and (self.optimizer != "adamw" or self.ema):
            raise UsageError("--fsdp divides what AdamW remembers: leave --optimizer and --ema out")
        if self.batch_size < count * self.accumulate:
            raise UsageError(
                f"--batch-size {self.batch_size}: {count} process(es) need a window each in each of "
                f"--accumulate {self.accumulate} parts"
            )

    def rate(self, step: int) -> float:
        """Learning rate of a step, a function of the step alone."""
        peak = self.learning_rate or LEARNING_RATE[self.size]
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        if self.schedule == "wsd":  # warm-up, stable, decay (Hu et al. 2024)
            return peak * min(1.0, (self.steps - step) / (self.decay_steps or 1))
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))

    def fingerprint(self) -> dict[str, Any]:
        """The arguments that shape the result, as JSON; not where its files are, nor when it stops to go on later."""
        places = ("data", "out", "resume", "text_model", "init", "minutes", "logger")
        watched = ("eval_every", "eval_env", "eval_episodes", "eval_env_kwargs")
        found = {key: value for key, value in dataclasses.asdict(self).items() if key not in places + watched}
        return found | {key: None for key, value in DEFAULTS_ADDED.items() if found[key] == value}

    def check_past(self, before: Mapping[str, Any], step: int) -> None:
        """Raise UsageError if fewer steps are asked for than were taken, or if those would have had other rates."""
        if step > self.steps:
            raise UsageError(f"cannot resume {self.out} with --steps {self.steps}: it has taken {step} already")
        then = dataclasses.replace(self, steps=int(before["steps"]), decay_steps=int(before["decay_steps"]))
        if any(then.rate(i) != self.rate(i) for i in range(step)):
            raise UsageError(
                f"cannot resume {self.out} with --steps {self.steps} --decay-steps {self.decay_steps}: the rates of "
                f"its first {step} steps would have been others; only --schedule wsd can be longer, before its decay"
            )
