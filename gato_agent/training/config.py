"""Training config: the options of `gato-agent train`, their checks, and the learning-rate schedule."""

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
}  # options that the config fingerprint leaves out at these values
LEARNING_RATE = {"nano": 1e-3, "tiny": 6e-4, "small": 1e-4, "baseline": 2e-4, "large": 1e-4}
# A constant learning rate, as in the paper's appendix. For nano and tiny it is that of training from scratch: smaller
# ones learn more slowly (docs/your-own-environment.md).
FINE_TUNING: dict[str, Any] = {"schedule": "wsd", "warmup": 0, "weight_decay": 0.0}
PAPER_FINETUNE: dict[str, Any] = {"learning_rate": 1e-5, "batch_size": 64, "steps": 10_000, "dropout": 0.1}
SMALL_FINETUNE: dict[str, Any] = {"batch_size": 4, "steps": 200}


@dataclass(frozen=True)
class TrainConfig:
    """Train an agent on collected episodes by behaviour cloning."""

    data: tuple[Path, ...] = (Path("data"),)
    """Training data: folders that `gato-agent collect --out` wrote. All tasks are learned together; episodes of one id
    are merged."""
    out: Path = Path("runs/gato")
    """Run folder: config.json, model.safetensors (the agent), state.safetensors (training state), log.jsonl, and until
    the run is complete tokens.safetensors (tokenized data)."""
    size: Size = "nano"
    """Model size; small, baseline and large are the paper's. With --init that of the checkpoint."""
    shape: str = "{}"
    """Model config fields to change, as JSON: {"context": 256, "layers": 6}. With --init only the context may
    differ."""
    init: str | None = None
    """Fine-tuning: checkpoint or run folder with the initial weights and text model, or `shipped` for the package's.
    Its tasks may differ from those of the data. Other options then have other defaults, which --help shows."""
    steps: int = 400
    """Optimizer steps in total; the learning-rate schedule depends on them."""
    batch_size: int = 4
    """Batch size in sequences of twice the context length."""
    min_segment: int = 0
    """Minimum segment length in tokens: sequences are filled with episode segments of log-uniform length from it to a
    whole sequence. 0: segments as long as the sequence has room."""
    accumulate: int = 1
    """Gradient accumulation: micro-batches of a step, which need less memory."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer. muon: Muon for weight matrices of the blocks, AdamW for embeddings, vectors and the patch tower."""
    ema: float = 0.0
    """EMA decay of the weights, in [0, 1), such as 0.999; the average is saved, validated and played. 0: no EMA."""
    learning_rate: float | None = None
    """Peak learning rate; by default 1e-3 (nano), 6e-4 (tiny), 1e-4 (small, large), 2e-4 (baseline)."""
    warmup: int = 50
    """Linear warm-up in steps."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning-rate schedule after the warm-up. cosine: decay to a tenth of the peak; wsd: constant, then a linear
    decay to zero over --decay-steps."""
    decay_steps: int = 0
    """Decay phase of wsd in steps; 0: none. A run without it can be resumed with one and more --steps."""
    weight_decay: float = 0.1
    """Weight decay of matrices, decoupled as in AdamW; at least 0."""
    dropout: float = 0.0
    """Dropout rate of each sub-layer's output, in [0, 1)."""
    bin_label_smoothing: float = 4.0
    """Label smoothing of continuous actions: standard deviation, in bins, of a Gaussian over the bins; 0: none."""
    loss_over: Literal["tokens", "timesteps"] = "tokens"
    """Loss weighting: the mean over action tokens, or over timesteps whatever their number of action tokens."""
    text_pieces: int | None = None
    """Tokens of a text observation, padded; by default the catalogue's number or 32, but at least 1.5 times the longest
    text in the data where that has more."""
    text_model: Path | None = None
    """Text tokenizer: a SentencePiece .model file; by default one is trained on the texts in the data."""
    prompt: Literal["auto", "none", "text", "demo"] = "auto"
    """Prompt at the beginning of each segment, visible at all later steps. text: the instruction, which is removed from
    the observation, or the task's name; demo: in a quarter of the segments a part of another episode; auto: that of
    --init, else text for several tasks or for instructions, else none."""
    precision: Precision = "float32"
    """Precision of matrix products in training (mixed precision). bfloat16 is fast only where the hardware supports it
    (AVX-512 BF16, AMX, CUDA); weights, sums, norms, the loss and on a CPU the optimizer stay in float32."""
    compile: bool = True
    """Compiled attention: C++ on a CPU with a compiler, FlexAttention on a GPU. Results are bit-exact only for the same
    value."""
    weights: Precision = "float32"
    """Precision of the weights in model.safetensors; play computes in float32."""
    mixture: str = "{}"
    """Mixture weights by task or family, as JSON: {"LunarLander-v3": 3, "babyai": 0.5}; shares of the tokens, 1 for a
    task without one. A family's weight is that of each of its tasks."""
    save_every: int = 50
    """Checkpoint interval in steps."""
    holdout: float = 0.0
    """Validation split: share of each task's episodes, the last ones, at most 0.5. The loss on them is logged at every
    checkpoint, and OUT/best is the model with the lowest; 0: none."""
    eval_every: int = 0
    """Validation in environments: interval in steps. Returns are logged, and OUT/best is the model with the highest
    mean normalised score; 0: none."""
    eval_env: tuple[str, ...] = ()
    """Environment ids of that validation; by default all tasks of the data. module:Env-v0 imports the module first."""
    eval_episodes: int = 5
    """Episodes per task of that validation, from seed 900,000 on."""
    eval_env_kwargs: str = "{}"
    """Environment arguments of that validation, as JSON, where those in the data are not plain numbers and words."""
    minutes: float | None = None
    """Time limit in minutes: save and stop; --resume continues. By default none."""
    seed: int = 0
    """Random seed of initial weights, batches and stochastic depth; at least 0."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    fsdp: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """FSDP2 under torchrun: shard weights, gradients and optimizer state among GPUs."""
    num_threads: int | None = None
    """CPU threads; by default all cores. Results are bit-exact only for the same number."""
    logger: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Additional loggers of the metrics in log.jsonl."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Resume the run in --out from its last checkpoint."""

    @classmethod
    def fine_tuning(cls, size: str, init: str, **options: Any) -> Self:
        """Fine-tuning defaults for a checkpoint of a size, with `options` in place of some of them."""
        own = SMALL_FINETUNE if size in ("nano", "tiny") else PAPER_FINETUNE
        return cls(**{**FINE_TUNING, **own, "size": size, "init": init, **options})

    def check(self) -> None:
        """Raise UsageError for an option out of range, or options that exclude each other."""
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
            raise UsageError(f"--holdout {self.holdout}: at most 0.5, so that episodes are left for training")
        if self.decay_steps and (self.schedule != "wsd" or self.decay_steps > self.steps):
            raise UsageError(f"--decay-steps {self.decay_steps}: for --schedule wsd, and at most --steps {self.steps}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UsageError(f"--learning-rate {self.learning_rate}: it must be above 0")

    def check_processes(self, count: int) -> None:
        """Raise UsageError for an option that excludes this number of processes."""
        if self.fsdp and count == 1:
            raise UsageError("--fsdp shards the model among processes: start them with torchrun -m gato_agent train")
        if self.fsdp and (self.optimizer != "adamw" or self.ema):
            raise UsageError("--fsdp supports AdamW without EMA: leave --optimizer and --ema out")
        if self.batch_size < count * self.accumulate:
            raise UsageError(
                f"--batch-size {self.batch_size}: {count} process(es) need a sequence each in each of "
                f"--accumulate {self.accumulate} parts: raise --batch-size"
            )

    @property
    def peak_rate(self) -> float:
        """Highest learning rate."""
        return self.learning_rate or LEARNING_RATE[self.size]

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
