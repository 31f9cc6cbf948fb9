"""Options of `gato-agent train` in groups, as its help shows them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import arg

from gato_agent.envs.errors import UsageError
from gato_agent.model.config import SIZES

Precision = Literal["float32", "bfloat16"]
if TYPE_CHECKING:
    Size = str
else:
    Size = Literal[tuple(SIZES)]
PEAK_RATES = ", ".join(f"{size.learning_rate:g} ({name})" for name, size in SIZES.items())


def weights_json(words: list[str]) -> str:
    """JSON of `NAME=WEIGHT` words; a word that is JSON already is returned as it is.

    Raises:
        UsageError: a word without a name or a number.
    """
    if len(words) == 1 and words[0].lstrip().startswith(("{", "[")):
        return words[0]
    weights = {}
    for word in words:
        name, _, weight = word.rpartition("=")
        try:
            number = float(weight)
            weights[name] = int(number) if number.is_integer() else number
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--mixture {word}: write NAME=WEIGHT, such as babyai=0.5 LunarLander-v3=3")
    return json.dumps(weights)


def weights_words(text: str) -> list[str]:
    """Words `NAME=WEIGHT` of a JSON object; inverse of `weights_json`."""
    return [f"{name}={weight:g}" for name, weight in json.loads(text).items()]


Mixture = Annotated[
    str,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=WEIGHT ...]",
        instance_from_str=weights_json,
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=weights_words,
    ),
]


@dataclass(frozen=True)
class DataOptions:
    """Training data: tasks, segments and weights of the loss."""

    data: tuple[Path, ...] = (Path("data"),)
    """Training data: folders that `gato-agent collect --out` wrote. All tasks are learned together; episodes of one id
    are merged."""
    mixture: Mixture = "{}"
    """Mixture weights by task or family, such as `babyai=0.5 LunarLander-v3=3`: shares of the tokens, 1 for a task
    without one. A family's weight is that of each of its tasks. A JSON object in Python."""
    min_segment: int = 0
    """Minimum segment length in tokens: sequences are filled with episode segments of log-uniform length from it to a
    whole sequence. 0: segments as long as the sequence has room."""
    loss_over: Literal["tokens", "timesteps"] = "tokens"
    """Loss weighting: the mean over action tokens, or over timesteps whatever their number of action tokens."""
    prompt: Literal["auto", "none", "text", "demo"] = "auto"
    """Prompt at the beginning of each segment, visible at all later steps. text: the instruction, which is removed from
    the observation, or the task's name; demo: in a quarter of the segments a part of another episode, for models
    without an action decoder; auto: that of --init, else text for several tasks or for instructions, else none."""
    text_pieces: int | None = None
    """Tokens of a text observation, padded; by default the catalogue's number or 32, but at least 1.5 times the longest
    text in the data where that has more."""
    text_model: Path | None = None
    """Text tokenizer: a SentencePiece .model file; by default one is trained on the texts in the data."""


@dataclass(frozen=True)
class NetworkOptions:
    """Size and initial weights of the model."""

    size: Size = "nano"
    """Model size; small, baseline and large are the paper's. With --init that of the checkpoint."""
    shape: tyro.conf.Suppress[str] = "{}"
    """Model config fields to change, as JSON; the command line has an option for each, such as --model.context."""
    init: str | None = None
    """Fine-tuning: checkpoint or run folder with the initial weights and text model, or `shipped` for the package's.
    Its tasks may differ from those of the data. Other options then have other defaults, which --help shows."""
    dropout: float = 0.0
    """Dropout rate of each sub-layer's output, in [0, 1)."""
    save_dtype: Precision = "float32"
    """Precision of the weights in model.safetensors; play computes in float32."""


@dataclass(frozen=True)
class OptimizationOptions:
    """Optimizer, learning rate and labels."""

    steps: int = 400
    """Optimizer steps in total; the learning-rate schedule depends on them."""
    batch_size: int = 4
    """Batch size in sequences of twice the context length."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer. muon: Muon for weight matrices of the blocks, AdamW for embeddings, vectors and the patch tower."""
    learning_rate: Annotated[float | None, arg(help=f"Peak learning rate; by default {PEAK_RATES}.")] = None
    """Peak learning rate; by default that of the size, in `SIZES`."""
    warmup: int = 50
    """Linear warm-up in steps."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning-rate schedule after the warm-up. cosine: decay to a tenth of the peak; wsd: constant, then a linear
    decay to zero over --decay-steps."""
    decay_steps: int = 0
    """Decay phase of wsd in steps; 0: none. A run without it can be resumed with one and more --steps."""
    weight_decay: float = 0.1
    """Weight decay of matrices, decoupled as in AdamW; at least 0."""
    bin_label_smoothing: float = 4.0
    """Label smoothing of continuous actions: standard deviation, in bins, of a Gaussian over the bins; 0: none."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Checkpoints, validation and loggers."""

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
    logger: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Additional loggers of the metrics in log.jsonl."""


@dataclass(frozen=True)
class RunOptions:
    """Run folder, devices and limits."""

    out: Path = Path("runs/gato")
    """Run folder: config.json, model.safetensors (the agent), state.safetensors (training state), log.jsonl, and until
    the run is complete tokens.safetensors (tokenized data)."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Resume the run in --out from its last checkpoint."""
    minutes: float | None = None
    """Time limit in minutes: save and stop; --resume continues. By default none."""
    seed: int = 0
    """Random seed of initial weights, batches and stochastic depth; at least 0."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    precision: Precision = "float32"
    """Precision of matrix products in training (mixed precision). bfloat16 is fast only where the hardware supports it
    (AVX-512 BF16, AMX, CUDA); weights, sums, norms, the loss and on a CPU the optimizer stay in float32."""
    compile: bool = True
    """Compiled attention: C++ on a CPU with a compiler, FlexAttention on a GPU. Results are bit-exact only for the same
    value."""
    accumulate: int = 1
    """Gradient accumulation: micro-batches of a step, which need less memory."""
    num_threads: int | None = None
    """CPU threads; by default all cores. Results are bit-exact only for the same number."""
    fsdp: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """FSDP2 under torchrun: shard weights, gradients and optimizer state among GPUs."""
