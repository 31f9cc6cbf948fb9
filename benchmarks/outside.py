"""Worth of a checkpoint as a beginning: twenty environments outside the catalogue, over several seeds.

    python benchmarks/outside.py --out runs/outside [--init generalist/run] [--case frozen-lake-8x8 ...]

Each case is like a task of the catalogue, with another size, gravity, level or goal. The agent plays it zero-shot
where the spaces are those it knows, then fine-tuned with 1, 10 and 50 episodes of the catalogue's expert, and
an agent of the same size plays it after the same training from nothing: as many steps, tokens and learning rates.
Scores are (mean - random) / (expert - random). Writes OUT/CASE/scores.json after each training, from which the same
command resumes.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from gato_agent.checkpoints.checkpoint import Checkpoint, locate, read
from gato_agent.checkpoints.task_matching import matching_task
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs.errors import UsageError
from gato_agent.envs.files import write_files
from gato_agent.envs.make import make_vector
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.training.option_groups import Precision

# Mean returns of random, expert and zero-shot, None of an agent that does not know the spaces; and of each kind of
# training, by seed.
Scores = dict[str, float | list[float] | None]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "frozen-lake-8x8": ("FrozenLake8x8-v1", {}),
    "frozen-lake-dry": ("FrozenLake-v1", {"is_slippery": False}),
    "cliff-slippery": ("CliffWalking-v1", {"is_slippery": True}),
    "taxi-rain": ("Taxi-v4", {"is_rainy": True}),
    "taxi-fickle": ("Taxi-v4", {"fickle_passenger": True}),
    "pendulum-light": ("Pendulum-v1", {"g": 8.0}),
    "mountain-car-fast": ("MountainCar-v0", {"goal_velocity": 0.03}),
    "lander-wind": ("LunarLander-v3", {"enable_wind": True}),
    "lander-light": ("LunarLander-v3", {"gravity": -6.0}),
    "lander-continuous-light": ("LunarLanderContinuous-v3", {"gravity": -6.0}),
    "go-to-local-10": ("BabyAI-GoToLocal-v0", {"room_size": 10, "num_dists": 10}),
    "go-to-obj-12": ("BabyAI-GoToObj-v0", {"room_size": 12}),
    "go-to-red-ball-12": ("BabyAI-GoToRedBall-v0", {"room_size": 12, "num_dists": 14}),
    "put-next-local-7": ("BabyAI-PutNextLocal-v0", {"room_size": 7, "num_objs": 5}),
    "obj-maze-2x2": ("BabyAI-GoToObjMaze-v0", {"num_rows": 2, "num_cols": 2, "room_size": 7}),
    "minatar-breakout-sticky": ("MinAtar/Breakout-v1", {"sticky_action_prob": 0.3}),
    "hopper-slow": ("Hopper-v5", {"frame_skip": 5}),
    "half-cheetah-far-start": ("HalfCheetah-v5", {"reset_noise_scale": 0.5}),
    "inverted-pendulum-far": ("InvertedPendulum-v5", {"reset_noise_scale": 0.1}),
    "walker-slow": ("Walker2d-v5", {"frame_skip": 5}),
}
ZERO_SHOT, FROM_NOTHING, FINE_TUNED = "zero-shot", "from nothing", "fine-tuned"


@dataclass(frozen=True)
class Config:
    """Measure a checkpoint as a beginning."""

    init: str = "shipped"
    """Checkpoint to fine-tune: run folder, file, or shipped."""
    case: tuple[str, ...] = tuple(CASES)
    """Environments, of those that are listed here."""
    episodes: tuple[int, ...] = (1, 10, 50)
    """Data set sizes in episodes."""
    seeds: int = 3
    """Number of seeds, each with its own episodes."""
    steps: int = 150
    """Optimizer steps of a training; the learning rate falls to zero over the last half."""
    batch_size: int = 4
    """Sequences in a batch."""
    context: int = 256
    """Context in tokens; a sequence has twice as many."""
    learning_rate: float = 2e-3
    """Peak learning rate, of Muon."""
    precision: Precision = "float32"
    """Precision of matrix products in training."""
    played: int = 20
    """Episodes of an evaluation."""
    out: Path = Path("runs/outside")
    """Folder of all data, runs and scores."""


class Case:
    """An environment outside the catalogue, with the scores that are known of it.

    Args:
        name: key of `CASES`.
        config: of the benchmark.
    """

    def __init__(self, name: str, config: Config) -> None:
        (self._env, self._arguments), self._config = CASES[name], config
        self._kwargs, self._out = json.dumps(self._arguments), config.out / name
        self._path = self._out / "scores.json"
        self.scores: Scores = json.loads(self._path.read_text()) if self._path.exists() else {}

    def measure(self) -> None:
        """Measure the missing scores."""
        for actor, options in self._actors():
            if actor not in self.scores:
                self._keep(actor, self._mean(**options) if actor != ZERO_SHOT or self._is_known() else None)
        for seed in range(self._config.seeds):
            for count in self._config.episodes:
                for start in (FROM_NOTHING, FINE_TUNED):
                    known = self.scores.setdefault(f"{start}, {count}", [])
                    if isinstance(known, list) and len(known) == seed:
                        self._keep(f"{start}, {count}", [*known, self._trained(start, count, seed)])

    def normalized(self, name: str) -> float | None:
        """Expert-normalised mean over seeds of the scores `name`; None where they are not known."""
        random, expert, score = (self.scores[each] for each in ("random", "expert", name))
        if score is None or random is None or expert is None:
            return None
        return float((np.mean(score) - np.mean(random)) / (np.mean(expert) - np.mean(random)))

    def _actors(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "random", {"expert": "random"}
        yield "expert", {"expert": "catalogue"}
        yield ZERO_SHOT, {"checkpoint": self._config.init}

    def _is_known(self) -> bool:
        """True if the agent has a task of these spaces."""
        with closing(make_vector(self._env, 1, env_kwargs=self._arguments)) as envs:
            try:
                matching_task(Checkpoint.load(self._config.init), envs)
            except UsageError:
                return False
        return True

    def _mean(self, **options: Any) -> float:
        """Mean return of an actor."""
        task: dict[str, Any] = {"env": (self._env,), "env_kwargs": self._kwargs, "episodes": self._config.played}
        return evaluate(EvaluateConfig(workers=0, **task, **options), print_table=False).tasks[self._env].mean

    def _trained(self, start: str, count: int, seed: int) -> float:
        """Mean return of an agent that was trained on `count` episodes."""
        data, run = self._out / f"data-{count}-{seed}", self._out / f"{start.replace(' ', '-')}-{count}-{seed}"
        collect(CollectConfig(
            env=(self._env,), env_kwargs=self._kwargs, episodes=count, seed=10_000 * (1 + seed), noise=True, workers=0,
            out=data,
        ))  # fmt: skip
        config = self._config
        size, shape = GatoConfig.from_json(read(locate(config.init))[1]["config"]).described()
        options: dict[str, Any] = {
            "data": (data,), "out": run, "resume": (run / "config.json").exists(), "seed": seed, "steps": config.steps,
            "batch_size": config.batch_size, "shape": json.dumps({**json.loads(shape), "context": config.context}),
            "optimizer": "muon", "learning_rate": config.learning_rate, "warmup": config.steps // 10,
            "schedule": "wsd", "decay_steps": config.steps // 2, "save_every": config.steps,
            "precision": config.precision, "size": size, "init": config.init if start == FINE_TUNED else None,
        }  # fmt: skip
        train(TrainConfig(**options))
        return self._mean(checkpoint=str(run))

    def _keep(self, name: str, score: float | list[float] | None) -> None:
        self.scores[name] = score
        write_files({self._path: json.dumps(self.scores, indent=1).encode()})


def main(config: Config) -> None:
    """Measure the missing scores of all cases, and print the table."""
    if unknown := [name for name in config.case if name not in CASES]:
        raise UsageError(f"--case {unknown[0]}: there are {', '.join(CASES)}")
    trained = [f"{start}, {count}" for count in config.episodes for start in (FROM_NOTHING, FINE_TUNED)]
    table = Table("case", "task", "arguments", "random", "expert", ZERO_SHOT, *trained)
    tenths = [(few, 10 * few) for few in config.episodes if 10 * few in config.episodes]
    better = dict.fromkeys(tenths, 0)
    for name in config.case:
        case, (env, kwargs) = Case(name, config), CASES[name]
        case.measure()
        cells = [case.normalized(each) for each in (ZERO_SHOT, *trained)]
        raw = [f"{np.mean(case.scores[each] or 0.0):.4g}" for each in ("random", "expert")]
        table.add_row(name, env, json.dumps(kwargs), *raw, *("-" if each is None else f"{each:.2f}" for each in cells))
        for few, many in tenths:
            fine, nothing = case.normalized(f"{FINE_TUNED}, {few}"), case.normalized(f"{FROM_NOTHING}, {many}")
            better[few, many] += fine is not None and nothing is not None and fine >= nothing
    console = Console(width=220)
    console.print(table)
    for (few, many), count in better.items():
        console.print(
            f"{FINE_TUNED} with {few} episodes at least as good as {FROM_NOTHING} with {many}: "
            f"{count} of {len(config.case)}"
        )


if __name__ == "__main__":
    main(tyro.cli(Config))
