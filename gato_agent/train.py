"""Behaviour cloning: predict the expert's action tokens, and only those."""

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from gato_agent import run_folder
from gato_agent.agent import resolve_device
from gato_agent.checkpoint import FILE, Checkpoint, read, to_bytes
from gato_agent.config import GatoConfig
from gato_agent.data import Data, load_data, mixture
from gato_agent.envs.errors import GatoError, UsageError, at_least
from gato_agent.envs.files import lock_folder, write_files
from gato_agent.model import Gato
from gato_agent.rollouts.progress import progress
from gato_agent.windows import Batch, Windows

LEARNING_RATE = {"nano": 1e-3, "tiny": 6e-4, "small": 1e-4, "baseline": 2e-4, "large": 1e-4}
STATE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW remembers of a parameter


@dataclass(frozen=True)
class TrainConfig:
    """Train an agent on collected episodes."""

    data: Path = Path("data")
    """Folder that `gato-agent collect --out` wrote; all its tasks are learned together."""
    out: Path = Path("runs/gato")
    """Run folder: config.json, model.safetensors (the agent), state.safetensors (to resume), log.jsonl."""
    size: Literal["nano", "tiny", "small", "baseline", "large"] = "nano"
    """Size of the model; the last three are the paper's."""
    init: Path | None = None
    """Checkpoint whose weights and text model to begin with, of the same size."""
    steps: int = 400
    """Optimizer steps; the schedule depends on them."""
    batch_size: int = 4
    """Windows per step; a window is twice the context long."""
    learning_rate: float | None = None
    """Peak learning rate; by default 1e-3 (nano), 6e-4 (tiny), 1e-4 (small, large), 2e-4 (baseline)."""
    warmup: int = 50
    """Steps of linear warm-up; a cosine to a tenth follows."""
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
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UsageError(f"--learning-rate {self.learning_rate}: it must be above 0")

    def schedule(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine to a tenth."""
        peak = self.learning_rate or LEARNING_RATE[self.size]
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


class Trainer:
    """A model, its optimizer and a step counter, which together are the whole state of a run."""

    def __init__(self, config: TrainConfig, model: Gato) -> None:
        self.config, self.model, self.step = config, model, 0
        decayed = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def update(self, batch: Batch) -> tuple[float, float]:
        """One optimizer step; returns the loss per target in nats, and the gradient's norm before clipping to 1."""
        self.model.train()
        # Seeded by step, so that stochastic depth and patch positions need no saved generator to resume exactly.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.schedule(self.step)
        loss = action_loss(self.model, batch, self.config.smooth_bins)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        figures = loss.item(), norm.item()
        if not all(map(math.isfinite, figures)):
            raise GatoError(
                f"step {self.step}: the loss is {figures[0]} and its gradient {figures[1]}; the last checkpoint is "
                "kept: train again with a lower --learning-rate"
            )
        self.optimizer.step()
        self.step += 1
        return figures

    def to_bytes(self) -> bytes:
        """Weights, the optimizer's moments and counts of those that ever had a gradient, and the step."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter.detach().cpu()
            tensors |= {f"{key}.{name}": value.cpu() for key, value in self.optimizer.state[parameter].items()}
        return to_bytes(tensors, {"step": self.step})

    def load(self, path: Path) -> None:
        """Continue from what `to_bytes` gave; raises GatoError if the file is damaged or of another model."""
        tensors, about = read(path)
        if "step" not in about:
            raise GatoError(f"{path} holds no state of training: restore it, or train again into another --out")
        self.step = int(about["step"])
        for name, parameter in self.model.named_parameters():
            try:
                parameter.data.copy_(tensors[f"model.{name}"])
            except (KeyError, RuntimeError) as error:
                raise GatoError(f"{path} is of another model ({error}): use the run's own --size") from error
            state = {key: tensors[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in tensors}
            self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}


def action_loss(model: Gato, batch: Batch, smooth_bins: float = 0.0) -> Tensor:
    """Mean cross-entropy of the action tokens, over the ids legal for each: nats per target.

    Logits are computed at the positions that predict an action token and for its legal ids, nowhere else.
    """
    hidden = model(
        batch.tokens, batch.patches, local=batch.local, intervals=batch.intervals, segment=batch.segment
    ).flatten(0, 1)
    continuous = model.config.vocabulary.continuous
    total, count = hidden.new_zeros(()), 0
    for low, high, position, ids in batch.targets:
        logits = model.logits(hidden[position], low, high).float()
        target: Tensor = ids - low
        if smooth_bins and continuous <= low < model.config.vocabulary.discrete:
            target = gaussian(high - low, smooth_bins, logits.device)[target]
        total = total + F.cross_entropy(logits, target, reduction="sum")
        count += len(ids)
    return total / max(1, count)  # type: ignore[no-any-return]


@lru_cache
def gaussian(bins: int, deviation: float, device: torch.device) -> Tensor:
    """Row i: a discretised normal around bin i, in bins, normalised: [bins, bins]."""
    index = torch.arange(bins, device=device)
    return torch.softmax(-((index[:, None] - index) ** 2) / (2 * deviation**2), dim=1)


def train(config: TrainConfig) -> Path:
    """Train, or resume training; returns the path of the finished model.

    Raises:
        UsageError: nothing to train on, or a run is already in `out` and `resume` is off.
        GatoError: the loss is not finite, or a file is damaged.
    """
    config.check()
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    size = GatoConfig.named(config.size)
    start = Checkpoint.load(config.init, device) if config.init else None
    if start and start.model.config != size:
        raise UsageError(f"--init {config.init} is no {config.size} model: give its own --size")
    data = load_data(config.data, size, config.text_pieces, config.text_model, start.text if start else None)
    shaping = {**plain(config), "num_threads": torch.get_num_threads(), "device": device, "data_sha256": data.sha256()}
    if start:
        shaping["init_sha256"] = start.sha256()
    windows = Windows(
        data.tokenized, window=2 * size.context, batch_size=config.batch_size, seed=config.seed,
        weights=mixture(config.mixture, list(data.tasks)),
    )  # fmt: skip
    with closing(lock_folder(config.out, "train")):
        run_folder.prepare(config.out, shaping, resume=config.resume)
        torch.manual_seed(config.seed)
        trainer = Trainer(config, start.model if start else Gato(size).to(device))
        if (config.out / STATE).exists():
            trainer.load(config.out / STATE)
        return _train(trainer, windows, data, shaping)


def _train(trainer: Trainer, windows: Windows, data: Data, shaping: dict[str, Any]) -> Path:
    """Train to the last step, saving now and then and at the end."""
    config, console = trainer.config, Console(soft_wrap=True, markup=False)
    console.print(
        f"{len(data.tasks)} task(s), {data.tokens:,} tokens; {config.size}: "
        f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters on {shaping['device']}; "
        f"steps {trainer.step} to {config.steps} of {config.batch_size * windows.window:,} tokens"
    )

    def save() -> None:
        # The state comes last: what a killed run has not recorded as done, it does again on resuming.
        checkpoint = Checkpoint(trainer.model, data.tasks, data.text, {"config": shaping, "step": trainer.step})
        checkpoint.save(config.out, getattr(torch, config.weights))
        write_files({config.out / STATE: trainer.to_bytes()})

    bar = progress(console, str(config.out), config.steps, "steps", trainer.step, every=10.0)
    with run_folder.Log(config.out / "log.jsonl", trainer.step) as log, bar as update:
        for entry in run(trainer, windows, shaping["device"]):
            log.write(entry)
            update(trainer.step, f"loss {entry['loss']:.4f}, {entry['tokens_per_second']:,.0f} tokens/s")
            if trainer.step % config.save_every == 0 and trainer.step < config.steps:
                save()
    save()
    console.print(f"trained: {config.out / FILE}")
    return config.out / FILE


def run(trainer: Trainer, windows: Windows, device: str) -> Iterator[dict[str, Any]]:
    """Train to the last step, yielding one log entry per step."""
    while trainer.step < trainer.config.steps:
        began = time.perf_counter()
        batch = windows.batch(trainer.step).to(device)
        loss, norm = trainer.update(batch)
        seconds = time.perf_counter() - began
        yield {
            "step": trainer.step,
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": trainer.config.schedule(trainer.step - 1),
            "tokens_per_second": batch.tokens.numel() / seconds,
        }


def plain(config: TrainConfig) -> dict[str, Any]:
    """The arguments that shape the result, as JSON; not where its files are."""
    places = ("data", "out", "resume", "text_model", "init")
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in places}
