"""Filtered cloning where demonstrations are poor: how far an agent comes above its half-trained teacher.

    python benchmarks/improve.py --out runs/improve [--tasks LunarLander-v3] [--seeds 0 1 2]

Each task has one teacher: an agent whose training on few episodes of the catalogue's expert was stopped early. For each
seed the teacher records 20 episodes with sampled actions, an agent is trained on them, and `gato-agent improve` goes on
from it. Teacher, first and best agent play the same 100 seeds greedily, which chose nothing. The same command resumes.
"""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from gato_agent.envs.files import write_files
from gato_agent.improving.progress import gain

SEED = 1_000_000  # of the comparison, that of `evaluate`
PLAYED = 100  # episodes of the comparison
SHOWN = 20  # demonstrations
OTHER = 100_000  # first seed of demonstrations, apart from those of the lessons, which the teacher knows by heart
HEADINGS = (
    "task", "seed", "demonstrations", "teacher", "first agent", "best agent", "above teacher", "95% interval", "rounds",
    "episodes", "steps",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A task, its teacher and the options that suit it.

    Attributes:
        lessons: episodes of the catalogue's expert that the teacher learns from.
        teacher: options of training the teacher.
        first: options of training the first agent on the demonstrations.
        improve: options of `improve`.
    """

    lessons: int
    teacher: str
    first: str
    improve: str


TRIALS = {
    "LunarLander-v3": Trial(
        20, "--steps 160 --warmup 20 --model.context 32 --batch-size 16",
        "--steps 200 --warmup 20 --model.context 4 --batch-size 128",
        "--episodes 100 --steps 300 --batch-size 128 --rounds 5 --eval-episodes 200",
    ),
    "BabyAI-GoToObjS6-v1": Trial(
        30, "--steps 40 --warmup 10 --batch-size 2 --model.context 256",
        "--steps 60 --warmup 10 --batch-size 2 --model.context 256",
        "--episodes 200 --steps 150 --batch-size 2 --rounds 5",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Improve agents of poor demonstrations."""

    tasks: tuple[str, ...] = tuple(TRIALS)
    """Environment ids, of those with a trial here."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; the agent of each has its own demonstrations."""
    out: Path = Path("runs/improve")
    """Folder of all episodes and runs; OUT/TASK/seed-0/row.json is a row of the table."""


def verb(*arguments: object) -> None:
    """Run a verb of this package; raises CalledProcessError if it fails."""
    words = [word for each in arguments for word in (shlex.split(each) if isinstance(each, str) else [str(each)])]
    subprocess.run([sys.executable, "-m", "gato_agent", *words], check=True, stdout=subprocess.DEVNULL)


def train(data: Path, out: Path, options: str) -> None:
    """Train an agent on one thread, or go on with its training; a complete run stays as it is."""
    if (out / "model.safetensors").exists() and not (out / "tokens.safetensors").exists():
        return
    resume = "--resume" if (out / "config.json").exists() else ""
    verb("train --num-threads 1 --size nano --data", data, "--out", out, options, resume)


def scores(env: str, actor: str, out: Path) -> list[float]:
    """Returns of an actor on the seeds of the comparison."""
    verb(f"evaluate --workers 0 --num-threads 1 --env {env} --episodes {PLAYED} --seed {SEED}", actor, "--out", out)
    (task,) = json.loads((out / "results.json").read_text())["tasks"]
    return list(task["returns"])


def teach(env: str, trial: Trial, out: Path) -> str:
    """Option of `collect` and `evaluate` that names the teacher, which is trained if it does not exist."""
    verb("collect --workers 0 --noise --env", env, "--episodes", trial.lessons, "--out", out / "lessons")
    train(out / "lessons", out / "teacher", trial.teacher)
    return f"--checkpoint {shlex.quote(str(out / 'teacher'))}"


def measure(env: str, seed: int, config: Config) -> list[str]:
    """Row of one agent."""
    trial, out = TRIALS[env], config.out / env
    teacher, run = teach(env, trial, out), out / f"seed-{seed}"
    shown = f"collect --workers 0 --env {env} --episodes {SHOWN} --seed {OTHER + 1000 * seed}"
    verb(shown, teacher, "--out", run / "demos")
    train(run / "demos", run / "first", f"{trial.first} --seed {seed}")
    begun = ["--data", run / "demos", "--init", run / "first", "--out", run / "improved"]
    verb(f"improve --workers 0 --env {env} --seed {seed}", trial.improve, *begun)
    actors = {"teacher": teacher, "first": f"--checkpoint {run}/first", "best": f"--checkpoint {run}/improved/best"}
    played = {name: scores(env, actor, run / "scores" / name) for name, actor in actors.items()}
    return row(env, seed, json.loads((run / "improved" / "improve.json").read_text()), played)


def row(env: str, seed: int, record: dict[str, Any], played: dict[str, list[float]]) -> list[str]:
    """Cells of one agent, from the record of its improvement and the returns of all actors."""
    rounds, above = record["rounds"], gain(played["best"], played["teacher"])
    digits = 2 if max(map(abs, played["best"])) < 10 else 0
    shown, *means = (f"{np.mean(each):.{digits}f}" for each in (record["demonstrations"], *played.values()))
    episodes, steps = (sum(each[name] for each in rounds) for name in ("episodes", "steps"))
    return [
        env, str(seed), shown, *means, f"{above.mean:+.{digits}f}",
        f"{above.low:+.{digits}f} to {above.high:+.{digits}f}", str(len(rounds) - 1), f"{episodes:,}", f"{steps:,}",
    ]  # fmt: skip


def main(config: Config) -> None:
    """Measure the missing agents, and print the table."""
    table = Table(*HEADINGS, title="filtered cloning of an agent's own episodes")
    for env in config.tasks:
        for seed in config.seeds:
            path = config.out / env / f"seed-{seed}" / "row.json"
            if not path.exists():
                write_files({path: json.dumps(measure(env, seed, config)).encode()})
            table.add_row(*json.loads(path.read_text()))
    Console(width=160).print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
