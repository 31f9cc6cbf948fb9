"""Use of a prompt: tasks that observations do not tell apart, with no prompt, the task's name or a demonstration.

    OMP_NUM_THREADS=1 python benchmarks/demonstration.py

A point walks on a grid to one of eight goals on its border, which observations do not show. Each goal is a task. Six
are trained on together; two are held out, and only a demonstration can tell of them.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.inference.agent import Agent
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode_store import open_stores

HALF = 4  # cells from the middle of the grid to its border
GOALS = [(x, y) for x in (-HALF, 0, HALF) for y in (-HALF, 0, HALF) if (x, y) != (0, 0)]
MOVES = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
LIMIT = 20  # steps of an episode
MODULE = "demonstration" if __name__ == "__main__" else __name__  # where the names below can be imported from
SHAPE = '{"action_decoder": false, "context": 128, "layers": 2}'
Prompts = Literal["none", "text", "demo"]


class Walk(gym.Env[NDArray[np.float32], np.int64]):
    """Environment of one goal: the observation is the place alone, and an episode ends at any goal."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(len(MOVES))

    def __init__(self, goal: int) -> None:
        self.goal = goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin next to the middle."""
        super().reset(seed=seed)
        self.place, self.t = self.np_random.integers(-1, 2, 2), 0
        return self._show(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move by one cell; success is the task's own goal."""
        self.place, self.t = np.clip(self.place + MOVES[int(action)], -HALF, HALF), self.t + 1
        place = tuple(self.place.tolist())
        won = place == GOALS[self.goal]
        return self._show(), float(won), place in GOALS, self.t >= LIMIT, {"is_success": won}

    def _show(self) -> NDArray[np.float32]:
        return (self.place / HALF).astype(np.float32)


def __getattr__(name: str) -> Callable[[NDArray[np.float32]], int]:
    """Expert `toward_N` of goal N: the straight way."""
    if not name.startswith("toward_"):
        raise AttributeError(name)
    goal = np.array(GOALS[int(name.removeprefix("toward_"))])

    def act(observation: NDArray[np.float32]) -> int:
        x, y = np.sign(goal - np.rint(observation * HALF)).astype(int).tolist()
        return MOVES.index((x, y))

    return act


@dataclass(frozen=True)
class Config:
    """Train a `nano` of two layers with each kind of prompt, and play all goals."""

    prompt: tuple[Prompts, ...] = ("none", "text", "demo")
    """Kinds of prompts."""
    held_out: tuple[int, ...] = (0, 4)
    """Goals that are not trained on, of 0 to 7."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds of weights and batches."""
    episodes: int = 100
    """Training episodes of each goal."""
    steps: int = 400
    """Optimizer steps, of four sequences of 256 tokens."""
    play: int = 50
    """Played episodes of each goal."""


def name_of(goal: int) -> str:
    """Environment id of a goal."""
    return f"Walk-{goal}-v0"


def success(checkpoint: Checkpoint, goal: int, prompt: Prompts, data: Path, episodes: int) -> float:
    """Share of episodes that end at the goal; one that is held out is played as another task."""
    known = name_of(goal) in checkpoint.tasks
    task = checkpoint.tasks[name_of(goal)] if known else next(iter(checkpoint.tasks.values()))
    shown = next(store for store in open_stores(data) if store.env_id == name_of(goal)) if prompt == "demo" else None
    agent = Agent(checkpoint, task, temperature=0.0, demonstration=None if shown is None else shown.read(0))
    envs = make_vector(name_of(goal), 10)
    seeds = range(1_000_000, 1_000_000 + episodes)
    return statistics.mean(bool(step.info["is_success"]) for step in steps(agent, envs, seeds) if step.done)


def learn(config: Config, prompt: Prompts, seed: int, data: Sequence[Path], run: Path) -> Checkpoint:
    """Train with a kind of prompt."""
    return Checkpoint.load(train(TrainConfig(
        data=tuple(data), out=run, steps=config.steps, batch_size=4, prompt=prompt, learning_rate=3e-3,
        optimizer="muon", shape=SHAPE, precision="bfloat16", seed=seed, save_every=config.steps, num_threads=1,
        device="cpu",
    )))  # fmt: skip


def main(config: Config) -> None:
    """Print a table as Markdown, a kind of prompt a row: mean success, and its range over seeds."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for goal in range(len(GOALS)):
        gym.register(name_of(goal), f"{MODULE}:Walk", kwargs={"goal": goal})
    with TemporaryDirectory() as name:
        folder = Path(name)
        for goal in range(len(GOALS)):
            collect(CollectConfig(
                env=(name_of(goal),), expert=f"{MODULE}:toward_{goal}", episodes=config.episodes, workers=0,
                out=folder / "data",
            ))  # fmt: skip
        trained = [goal for goal in range(len(GOALS)) if goal not in config.held_out]
        data = [folder / "data" / name_of(goal) for goal in trained]
        lines = ["| prompt | trained goals | held-out goals |", "|---|---:|---:|"]
        for prompt in config.prompt:
            scores: list[tuple[float, float]] = []
            for seed in config.seeds:
                checkpoint = learn(config, prompt, seed, data, folder / f"{prompt}-{seed}")
                each = [success(checkpoint, goal, prompt, folder / "data", config.play) for goal in range(len(GOALS))]
                scores.append((
                    statistics.mean(each[goal] for goal in trained),
                    statistics.mean(each[goal] for goal in config.held_out),
                ))  # fmt: skip
                console.print(f"{prompt}, seed {seed}: {', '.join(f'{share:.0%}' for share in each)}")
            cells = [
                f"{statistics.mean(part):.0%} ({min(part):.0%} to {max(part):.0%})"
                for part in zip(*scores, strict=True)
            ]
            lines.append(f"| {prompt} | {' | '.join(cells)} |")
    console.print(*lines, sep="\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
