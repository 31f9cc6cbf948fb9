"""Ablations of the training recipe: runs that differ in one option, on a small mixture, by loss and score.

    python benchmarks/ablations.py --data data --only adamw muon --seeds 0 1 2

`--data` has episodes with noise, `--clean` as many without; the held-out loss is of the same kind as a run's data.
Complete runs are not repeated. The table has all of them, from earlier calls too.
"""

import json
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import tyro

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs.files import write_files
from gato_agent.tokens.space_tokenizer import BINS
from gato_agent.training.validation import validate_in_env

TASKS = ("LunarLander-v3", "Hopper-v5", "Meta-World/push-v3", "BabyAI-GoToLocal-v0", "Pendulum-v1")
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"optimizer": "muon"},
    "adamw, rate x 2": {"learning_rate": 2e-3},
    "adamw, rate x 1/2": {"learning_rate": 5e-4},
    "muon, rate x 2": {"optimizer": "muon", "learning_rate": 2e-3},
    "muon, rate x 4": {"optimizer": "muon", "learning_rate": 4e-3},
    "actions read": {"shape": '{"action_decoder": false, "past_actions": true}'},
    "a token for each value": {"shape": '{"values_per_token": 1}'},
    "the paper's tokens": {"shape": '{"action_decoder": false, "past_actions": true, "values_per_token": 1}'},
    "segments from 16 tokens": {"min_segment": 16},
    "timesteps count alike": {"loss_over": "timesteps"},
    "episodes without noise": {"clean": True},
    "no smoothing": {"bin_label_smoothing": 0.0},
    "smoothing over 8 bins": {"bin_label_smoothing": 8.0},
    "tables begin at random": {"random_tables": True},
    "context 256": {"shape": '{"context": 256}', "batch_size": 8},
    "8 layers of 96": {"shape": '{"layers": 8, "width": 96, "heads": 3, "feed_forward": 384}'},
    "2 layers of 192": {"shape": '{"layers": 2, "width": 192, "heads": 6, "feed_forward": 768}'},
    "constant rate, last fifth decays": {"schedule": "wsd", "decay_steps": -5},
    "bfloat16": {"precision": "bfloat16"},
}


@dataclass(frozen=True)
class Ablations:
    """Train variants, play them, and write a table."""

    data: Path = Path("data")
    """Training data: folder with a folder of episodes for each task."""
    clean: Path = Path("data-clean")
    """Training data without noise, in the same layout."""
    only: tuple[str, ...] = ()
    """Variants to train; by default all of them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds of weights and batches; one run of each variant for each."""
    tasks: tuple[str, ...] = TASKS
    """Tasks that are learned together."""
    steps: int = 300
    """Optimizer steps of a run, of four sequences of twice the context length."""
    episodes: int = 20
    """Episodes for each task and run."""
    out: Path = Path("runs/ablations")
    """Folder for the runs."""
    table: Path = Path("docs/ablations.md")
    """Markdown file whose part below the marker line is replaced by the table."""
    base: dict[str, Any] = field(default_factory=lambda: {"precision": "bfloat16", "holdout": 0.1, "num_threads": 1})
    """Options of `gato-agent train` for all runs."""


def train_config(config: Ablations, name: str, seed: int) -> TrainConfig:
    """Training config of a variant."""
    options = {**config.base, **VARIANTS[name]}
    if options.get("decay_steps", 0) < 0:  # a share of the run
        options["decay_steps"] = config.steps // -options["decay_steps"]
    options.pop("random_tables", None)  # of the weights, see `measure`
    data = config.clean if options.pop("clean", False) else config.data
    out = config.out / f"{name.replace(' ', '-').replace('/', '')}-{seed}"
    folders = tuple(data / task.replace("/", "%2F") for task in config.tasks)
    return TrainConfig(data=folders, out=out, steps=config.steps, seed=seed, save_every=config.steps, **options)


def random_tables() -> AbstractContextManager[object]:
    """Context in which the initial embeddings of neighbouring bins are independent."""
    return patch("gato_agent.model.init.smooth_bin_table", lambda width: torch.randn(BINS, width))


def measure(config: Ablations, name: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one run, or read its measurement if it is complete."""
    recipe = train_config(config, name, seed)
    file = recipe.out / "measured.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    began = time.process_time()
    with random_tables() if VARIANTS[name].get("random_tables") else nullcontext():
        path = train(recipe)
    spent = time.process_time() - began
    checkpoint = Checkpoint.load(path)
    torch.manual_seed(0)
    returns = validate_in_env(checkpoint, config.tasks, config.episodes, "cpu", lambda text: None)
    measurement = {
        "variant": name, "seed": seed, "steps": config.steps, "cpu_seconds": spent,
        "loss": checkpoint.training["held_out_loss"], "returns": {task: s.mean for task, s in returns.tasks.items()},
        "scores": {task: s.normalized for task, s in returns.tasks.items()}, "not_played": returns.failed,
    }  # fmt: skip
    write_files({file: json.dumps(measurement, indent=2).encode()})
    return measurement


def row(name: str, runs: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    """Table row of a variant: means over seeds, with standard errors of the loss and the mean score."""

    def cell(values: Sequence[float], digits: int) -> str:
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return f"{statistics.mean(values):.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")

    scores = [statistics.mean(run["scores"][task] for task in tasks) for run in runs]
    each = [f"{statistics.mean(run['scores'][task] for run in runs):.2f}" for task in tasks]
    cpu = f"{statistics.mean(run['cpu_seconds'] for run in runs):.0f}"
    cells = [name, str(len(runs)), cell([run["loss"] for run in runs], 3), cell(scores, 2), *each, cpu]
    return f"| {' | '.join(cells)} |"


def main(config: Ablations) -> None:
    """Train the missing runs, then write the table."""
    for seed in config.seeds:  # all variants of a seed first, so that a table can be read early
        for name in config.only or VARIANTS:
            measurement = measure(config, name, seed)
            print(json.dumps({key: measurement[key] for key in ("variant", "seed", "loss", "scores")}), flush=True)
    files = sorted(config.out.glob("*/measured.json"))
    runs = [json.loads(file.read_text()) for file in files]
    lines = [
        f"| variant | seeds | held-out loss | score | {' | '.join(config.tasks)} | CPU-s |",
        f"|---|{'---:|' * (len(config.tasks) + 4)}",
    ]
    played = [run for run in runs if set(config.tasks) <= set(run["scores"])]
    groups = [(name, [run for run in played if run["variant"] == name]) for name in VARIANTS]
    lines += [row(name, mine, config.tasks) for name, mine in groups if mine]
    marker = "<!-- written by benchmarks/ablations.py -->"
    above = config.table.read_text().partition(marker)[0] if config.table.exists() else "# Ablations\n\n"
    write_files({config.table: f"{above}{marker}\n\n{chr(10).join(lines)}\n".encode()})


if __name__ == "__main__":
    main(tyro.cli(Ablations))
