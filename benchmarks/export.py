"""A control step of the agent's CPU decoder beside the same step as a graph in ONNX Runtime, and its actions.

    python benchmarks/export.py --env CartPole-v1 HalfCheetah-v5 --steps 1000

Agent and graph take turns with the same observations, in blocks; the time of a step is that of the fastest block.
"""

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.spaces.flatten import columns
from gato_agent.exporting.export import export
from gato_agent.exporting.graph_actor import GraphActor
from gato_agent.inference.agent import Agent

BLOCK = 20  # steps


@dataclass(frozen=True)
class Config:
    """Compare agent and graph."""

    env: tuple[str, ...]
    """Environment ids, among the checkpoint's tasks."""
    checkpoint: str = "shipped"
    """Checkpoint: run folder, file, or shipped."""
    steps: int = 1000
    """Control steps of each task, from seed 900,000 on."""


def main(config: Config) -> None:
    """Print a table as Markdown, a task a row."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint.load(config.checkpoint)
    console = Console(soft_wrap=True)
    heads = ("task", "agent (ms)", "ONNX Runtime (ms)", "numbers of actions", "different")
    console.print(f"| {' | '.join(heads)} |", "|---|" + "---:|" * 4, sep="\n", highlight=False)
    for env_id in config.env:
        console.print(f"| {env_id} | {' | '.join(compare(checkpoint, env_id, config.steps))} |", highlight=False)


def compare(checkpoint: Checkpoint, env_id: str, count_of_steps: int) -> list[str]:
    """Cells of a task's row."""
    task = checkpoint.tasks[env_id]
    agent = Agent(checkpoint, task, temperature=0.0, num_threads=1)
    with tempfile.TemporaryDirectory() as folder:
        export(checkpoint, task, Path(folder) / "step.onnx", temperature=0.0)
        graph = GraphActor.load(Path(folder) / "step.onnx")
    with closing(make_vector(env_id, 1)) as envs:
        observed = Recorded(agent)
        for _ in islice(steps(observed, envs, count(900_000)), count_of_steps):
            pass
    inputs = observed.inputs[:count_of_steps]
    agent.reset(1)
    graph.reset(1)
    times, actions = timed([agent, graph], inputs)
    numbers = [np.concatenate([c.ravel() for a in each for c in columns(task.action_space, a).values()])
               for each in actions]  # fmt: skip
    different = int((numbers[0] != numbers[1]).sum())
    return [*(f"{1e3 * best:.2f}" for best in times), str(len(numbers[0])), str(different)]


class Recorded:
    """Actor that keeps the observations and episode starts of another."""

    def __init__(self, actor: Actor) -> None:
        self._actor, self.inputs = actor, list[tuple[Any, Any]]()

    def reset(self, num_envs: int) -> None:
        """See `Actor`."""
        self._actor.reset(num_envs)

    def act(self, observation: Any, start: Any) -> Any:
        """See `Actor`."""
        self.inputs.append((observation, start))
        return self._actor.act(observation, start)


def timed(actors: list[Any], inputs: list[tuple[Any, Any]]) -> tuple[list[float], list[list[Any]]]:
    """Seconds of a step in the fastest block, and all actions, of each actor."""
    best, actions = [float("inf")] * len(actors), [list[Any]() for _ in actors]
    for first in range(0, len(inputs), BLOCK):
        block = inputs[first : first + BLOCK]
        for i, actor in enumerate(actors):
            began = time.perf_counter()
            actions[i] += [actor.act(observation, start) for observation, start in block]
            best[i] = min(best[i], (time.perf_counter() - began) / len(block))
    return best, actions


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
