"""What states that a learner visits are worth, over as many more of the expert's with noise.

    python benchmarks/dagger.py BabyAI-GoToLocal-v0 [--first 200] [--steps 600] [--betas 0 0.25] [--out runs/dagger]

An agent is trained on noisy episodes. Then the data are doubled, once with noise and once with DAgger's episodes of
that agent for each beta, and agents are trained on them from scratch by equally many steps. Run again, it goes on.
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

MORE = 10_000_000  # seeds of what is added begin here: neither those of the first data nor of evaluation


@dataclass(frozen=True)
class Config:
    """Measure DAgger in an environment."""

    env: tyro.conf.Positional[str]
    """Environment id."""
    first: int = 200
    """Noisy episodes that all arms have."""
    steps: int = 600
    """Optimizer steps of each agent."""
    betas: tuple[float, ...] = (0.0, 0.25)
    """Shares of the expert's steps that are tried."""
    episodes: int = 100
    """Episodes of an evaluation."""
    size: str = "nano"
    """Size of the model."""
    out: Path = Path("runs/dagger")
    """Where episodes and runs are kept."""


def verb(*arguments: object) -> None:
    """Run a verb of this package; raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "gato_agent", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def steps_of(folder: Path) -> int:
    """Steps of all episodes in a folder."""
    return sum(store.stats(seed).steps for store in open_stores(folder) for seed in store.indices())


def fill(config: Config, folder: Path, steps: int, *options: object) -> None:
    """Collect as few episodes as make so many steps."""
    episodes, there = 8, 0
    while there < steps:
        if there:
            episodes += max(1, math.ceil(0.7 * episodes * (steps / there - 1)))  # lengths vary: not all at once
        verb("collect", "--env", config.env, "--seed", MORE, "--episodes", episodes, "--out", folder, *options)
        there = steps_of(folder)


def trained(config: Config, name: str, *data: Path) -> Path:
    """Train an agent on those folders, unless it is there."""
    run = config.out / name
    if not (run / "model.safetensors").exists():
        verb("train", "--data", *data, "--size", config.size, "--steps", config.steps, "--num-threads", 1,
             "--save-every", config.steps, "--out", run)  # fmt: skip
    return run


def main(config: Config) -> None:
    """Print the table."""
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
        path = run / "scores.json"
        verb("evaluate", "--env", config.env, "--checkpoint", run, "--episodes", config.episodes, "--num-threads", 1,
             "--json", path)  # fmt: skip
        table.add_row(name, f"{steps + more_steps:,}", *_figures(path))
    Console(width=120).print(table)


def _figures(path: Path) -> list[str]:
    """Return, its interval, success and normalised score of an evaluation's only task."""
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
