"""DAgger against noise: agents trained on equally many additional steps of either.

    python benchmarks/dagger.py BabyAI-GoToLocal-v0 [--first 200] [--steps 600] [--betas 0 0.25] [--out runs/dagger]

An agent is trained on noisy episodes. The data are doubled with noisy episodes, or with DAgger episodes of that agent
for each beta, and new agents are trained from scratch for equally many steps. The same command resumes.
"""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from gato_agent.rollouts.storage.episode_store import open_stores

MORE = 10_000_000  # first seed of additional episodes, apart from those of the first data and of evaluation


@dataclass(frozen=True)
class Config:
    """Measure DAgger in an environment."""

    env: tyro.conf.Positional[str]
    """Environment id."""
    first: int = 200
    """Noisy episodes in the data of all arms."""
    steps: int = 600
    """Optimizer steps of each agent."""
    betas: tuple[float, ...] = (0.0, 0.25)
    """DAgger betas: shares of steps that the expert acts in, 0 to 1."""
    episodes: int = 100
    """Episodes of an evaluation."""
    size: str = "nano"
    """Model size."""
    out: Path = Path("runs/dagger")
    """Folder for episodes and runs."""


def verb(*arguments: object) -> None:
    """Run a verb of this package; raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "gato_agent", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def steps_of(folder: Path) -> int:
    """Steps of all episodes in a folder."""
    return sum(store.stats(seed).steps for store in open_stores(folder) for seed in store.indices())


def fill(config: Config, folder: Path, steps: int, *options: object) -> None:
    """Collect episodes until a folder has at least `steps` steps."""
    episodes, collected = 8, 0
    while collected < steps:
        if collected:
            episodes += max(
                1, math.ceil(0.7 * episodes * (steps / collected - 1))
            )  # in several rounds, because lengths vary
        verb("collect", "--env", config.env, "--seed", MORE, "--episodes", episodes, "--out", folder, *options)
        collected = steps_of(folder)


def trained(config: Config, name: str, *data: Path) -> Path:
    """Train an agent on some folders unless its run is complete; returns the run folder."""
    run = config.out / name
    if not (run / "model.safetensors").exists():
        verb("train", "--data", *data, "--size", config.size, "--steps", config.steps, "--num-threads", 1,
             "--save-every", config.steps, "--out", run)  # fmt: skip
    return run


def main(config: Config) -> None:
    """Collect, train and evaluate all arms, and print a table."""
    first = config.out / "first"
    verb("collect", "--env", config.env, "--noise", "--episodes", config.first, "--out", first)
    steps = steps_of(first)
    learner = trained(config, "run-first", first)
    arms = {"noise": ("--noise",), **{f"beta {b:g}": ("--dagger", learner, "--dagger-beta", b) for b in config.betas}}
    runs = {"the first data alone": (learner, 0)}
    for name, options in arms.items():
        more = config.out / name.replace(" ", "-")
        fill(config, more, steps, *options)
        run = trained(config, f"run-{more.name}", first, more)
        runs[f"and as many steps {'with noise' if name == 'noise' else f'of DAgger, {name}'}"] = run, steps_of(more)
    table = Table("trained on", title=f"{config.env}: {config.size}, {config.steps} steps of training")
    for heading in ("steps of data", "return", "95% interval", "success", "normalised"):
        table.add_column(heading, justify="right")
    for name, (run, more_steps) in runs.items():
        path = run / "scores" / "results.json"
        verb("evaluate", "--env", config.env, "--checkpoint", run, "--episodes", config.episodes, "--num-threads", 1,
             "--out", path.parent)  # fmt: skip
        table.add_row(name, f"{steps + more_steps:,}", *_score_cells(path))
    Console(width=120).print(table)


def _score_cells(path: Path) -> list[str]:
    """Table cells of an evaluation of one task: return, interval, success and normalised score."""
    (score,) = json.loads(path.read_text())["tasks"]
    known = [score["success"], score["normalized"]]
    low, high = score["ci95"]
    return [
        f"{score['mean']:.2f}",
        f"{low:.2f} to {high:.2f}",
        *("-" if each is None else f"{each:.2f}" for each in known),
    ]


if __name__ == "__main__":
    main(tyro.cli(Config))
