"""Filtered cloning where demonstrations are poor: how far an agent comes above its half-trained teacher.

    python benchmarks/improve.py --out runs/improve [--tasks LunarLander-v3] [--seeds 3]

Each task has one teacher: PPO that was stopped early, or an agent that was trained on few episodes. For each seed the
teacher records 20 noisy episodes, an agent is trained on them, and `gato-agent improve` goes on from it. The teacher,
the first agent and the best one play the same 100 seeds, which chose nothing. The same command resumes.
"""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from gato_agent.envs.files import write_files
from gato_agent.improving.progress import gain

SEED = 1_000_000  # of the comparison, that of `evaluate`
PLAYED = 100  # episodes of the comparison
SHOWN = 20  # demonstrations
HEADINGS = (
    "task", "seed", "demonstrations", "teacher", "first agent", "best agent", "above teacher", "95% interval", "rounds",
    "episodes", "minutes",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A task, its teacher and the options that suit it.

    Attributes:
        teacher: options of `collect` that record an expert to be trained, or of the episodes that train an agent.
        by_training: True if `collect --expert train` makes the teacher; else it is an agent.
        lesson: options of training that agent.
        first: options of training the first agent on the demonstrations.
        improve: options of `improve`.
    """

    teacher: str
    by_training: bool
    lesson: str
    first: str
    improve: str


TRIALS = {
    "LunarLander-v3": Trial(
        "--expert train --train-steps 300000", True, "",
        "--steps 200 --warmup 20 --model.context 128",
        "--episodes 40 --tries 4 --steps 150",
    ),
    "BabyAI-GoToObjS6-v1": Trial(
        "--noise --episodes 30", False, "--steps 40 --warmup 10 --batch-size 2 --model.context 256",
        "--steps 60 --warmup 10 --batch-size 2 --model.context 256",
        "--episodes 100 --tries 4 --bar 0 --steps 100 --batch-size 2",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Improve agents of poor demonstrations."""

    tasks: tuple[str, ...] = tuple(TRIALS)
    """Environment ids, of those with a trial here."""
    seeds: int = 3
    """Agents of each task; each has its own demonstrations."""
    rounds: int = 5
    """Rounds of each."""
    out: Path = Path("runs/improve")
    """Folder of all episodes and runs; OUT/rows.json has the table's rows."""


def verb(*arguments: object) -> None:
    """Run a verb of this package; raises CalledProcessError if it fails."""
    words = [word for each in arguments for word in (shlex.split(each) if isinstance(each, str) else [str(each)])]
    subprocess.run([sys.executable, "-m", "gato_agent", *words], check=True, stdout=subprocess.DEVNULL)


def train(data: Path, out: Path, options: str) -> None:
    """Train an agent on one thread, or go on with its training."""
    resume = "--resume" if (out / "config.json").exists() else ""
    verb("train --num-threads 1 --size nano --data", data, "--out", out, options, resume)


def scores(env: str, actor: str, out: Path) -> list[float]:
    """Returns of an actor on the seeds of the comparison."""
    verb(f"evaluate --workers 0 --num-threads 1 --env {env} --episodes {PLAYED} --seed {SEED}", actor, "--out", out)
    (task,) = json.loads((out / "results.json").read_text())["tasks"]
    return list(task["returns"])


def teach(env: str, trial: Trial, out: Path) -> str:
    """Option of `collect` and `evaluate` that names the teacher, which is trained if it does not exist."""
    data = out / "teacher-data"
    if trial.by_training:
        zipped = data / "experts" / env / "model.zip"
        if not zipped.exists():
            verb("collect --workers 0 --episodes 1 --env", env, trial.teacher, "--out", data)
        return f"--expert {shlex.quote(str(zipped))}"
    verb("collect --workers 0 --env", env, trial.teacher, "--out", data)
    train(data, out / "teacher", trial.lesson)
    return f"--checkpoint {shlex.quote(str(out / 'teacher'))}"


def measure(env: str, seed: int, config: Config) -> list[str]:
    """Row of one agent."""
    trial, out = TRIALS[env], config.out / env
    teacher, run = teach(env, trial, out), out / f"seed-{seed}"
    noise = "--noise" if trial.by_training else ""  # an agent's actions are sampled
    verb(
        f"collect --workers 0 --env {env} --episodes {SHOWN} --seed {1000 * seed}",
        teacher,
        noise,
        "--out",
        run / "demos",
    )
    train(run / "demos", run / "first", f"{trial.first} --seed {seed}")
    began = ["--data", run / "demos", "--init", run / "first", "--out", run / "improved"]
    verb(f"improve --workers 0 --env {env} --seed {seed} --rounds {config.rounds}", trial.improve, *began)
    record = json.loads((run / "improved" / "improve.json").read_text())
    taught = scores(env, teacher, out / "teacher-scores")
    first = scores(env, f"--checkpoint {shlex.quote(str(run / 'first'))}", run / "first-scores")
    best = scores(env, f"--checkpoint {shlex.quote(str(run / 'improved' / 'best'))}", run / "best-scores")
    above = gain(best, taught)
    minutes = (sum(sum(each["seconds"].values()) for each in record["rounds"])) / 60
    digits = 2 if max(map(abs, best)) < 10 else 0
    means = [f"{np.mean(each):.{digits}f}" for each in (taught, first, best)]
    return [
        env, str(seed), f"{record['demonstrations']:.{digits}f}", *means, f"{above.mean:+.{digits}f}",
        f"{above.low:+.{digits}f} to {above.high:+.{digits}f}", str(len(record["rounds"]) - 1),
        f"{sum(each['episodes'] for each in record['rounds']):,}", f"{minutes:.0f}",
    ]  # fmt: skip


def main(config: Config) -> None:
    """Measure the missing agents, and print the table."""
    path = config.out / "rows.json"
    rows: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
    for seed in range(config.seeds):
        for env in config.tasks:
            if f"{env} {seed}" not in rows:
                rows[f"{env} {seed}"] = measure(env, seed, config)
                write_files({path: json.dumps(rows, indent=1).encode()})
    table = Table(*HEADINGS, title="filtered cloning of an agent's own episodes")
    for row in sorted(rows.values()):
        table.add_row(*row)
    Console(width=160).print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
