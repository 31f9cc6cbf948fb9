"""What each choice of the recipe is worth: runs that differ in one thing, on one small mixture, by loss and by return.

    python benchmarks/ablations.py --data data --only adamw muon --seeds 0 1 2

`--data` has episodes with noise, `--clean` as many without. The held-out loss is of a run's own kind of data.
Runs are kept, and a call that was stopped goes on. The table is of all that were finished, also by other calls.
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
    "averaged weights": {"ema": 0.99},
    "bfloat16": {"precision": "bfloat16"},
}


@dataclass(frozen=True)
class Ablations:
    """Train variants, play them, and write a table."""

    data: Path = Path("data")
    """Folder with a folder of episodes for each task."""
    clean: Path = Path("data-clean")
    """The same, without noise."""
    only: tuple[str, ...] = ()
    """Variants to train; by default all of them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights and windows."""
    tasks: tuple[str, ...] = TASKS
    """Learned together."""
    steps: int = 300
    """Of each run, four windows of twice the context each."""
    episodes: int = 20
    """Played of each task and run."""
    out: Path = Path("runs/ablations")
    """Folder of the runs."""
    table: Path = Path("docs/ablations.md")
    """Where the table goes, after what stands there above the marked line."""
    base: dict[str, Any] = field(default_factory=lambda: {"precision": "bfloat16", "holdout": 0.1, "num_threads": 1})
    """Arguments of `gato-agent train` that all runs share."""


def options(config: Ablations, name: str, seed: int) -> TrainConfig:
    """How a variant is trained."""
    given = {**config.base, **VARIANTS[name]}
    if given.get("decay_steps", 0) < 0:  # a share of the run
        given["decay_steps"] = config.steps // -given["decay_steps"]
    given.pop("random_tables", None)  # of the weights, see `measure`
    data = config.clean if given.pop("clean", False) else config.data
    out = config.out / f"{name.replace(' ', '-').replace('/', '')}-{seed}"
    folders = tuple(data / task.replace("/", "%2F") for task in config.tasks)
    return TrainConfig(data=folders, out=out, steps=config.steps, seed=seed, save_every=config.steps, **given)


def random_tables() -> AbstractContextManager[object]:
    """Neighbouring bins have nothing in common when training begins."""
    return patch("gato_agent.model.init.smooth_bin_table", lambda width: torch.randn(BINS, width))


def measure(config: Ablations, name: str, seed: int) -> dict[str, Any]:
    """Train and play one run, unless that was done before."""
    recipe = options(config, name, seed)
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
    found = {
        "variant": name, "seed": seed, "steps": config.steps, "cpu_seconds": spent,
        "loss": checkpoint.training["held_out_loss"], "returns": {task: s.mean for task, s in returns.tasks.items()},
        "scores": {task: s.normalized for task, s in returns.tasks.items()}, "not_played": returns.failed,
    }  # fmt: skip
    write_files({file: json.dumps(found, indent=2).encode()})
    return found


def row(name: str, runs: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    """A line of the table: means over seeds, and the standard error of those over all tasks."""

    def cell(values: Sequence[float], digits: int) -> str:
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return f"{statistics.mean(values):.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")

    scores = [statistics.mean(run["scores"][task] for task in tasks) for run in runs]
    each = [f"{statistics.mean(run['scores'][task] for run in runs):.2f}" for task in tasks]
    cpu = f"{statistics.mean(run['cpu_seconds'] for run in runs):.0f}"
    cells = [name, str(len(runs)), cell([run["loss"] for run in runs], 3), cell(scores, 2), *each, cpu]
    return f"| {' | '.join(cells)} |"


def main(config: Ablations) -> None:
    """Run what is missing, then write the table."""
    for seed in config.seeds:  # all variants of a seed first, so that a table can be read early
        for name in config.only or VARIANTS:
            found = measure(config, name, seed)
            print(json.dumps({key: found[key] for key in ("variant", "seed", "loss", "scores")}), flush=True)
    files = sorted(config.out.glob("*/measured.json"))
    runs = [json.loads(file.read_text()) for file in files]
    lines = [
        f"| variant | seeds | held-out loss | score | {' | '.join(config.tasks)} | CPU-s |",
        f"|---|{'---:|' * (len(config.tasks) + 4)}",
    ]
    played = [run for run in runs if set(config.tasks) <= set(run["scores"])]
    groups = [(name, [run for run in played if run["variant"] == name]) for name in VARIANTS]
    lines += [row(name, mine, config.tasks) for name, mine in groups if mine]
    mark = "<!-- written by benchmarks/ablations.py -->"
    above = config.table.read_text().partition(mark)[0] if config.table.exists() else "# Ablations\n\n"
    write_files({config.table: f"{above}{mark}\n\n{chr(10).join(lines)}\n".encode()})


if __name__ == "__main__":
    main(tyro.cli(Ablations))
