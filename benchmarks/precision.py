"""Error of reduced precision: actions and logits of bfloat16 and int8 against float32, on the same observations.

    python benchmarks/precision.py --env CartPole-v1 BabyAI-GoToLocal-v0 HalfCheetah-v5 --steps 10000

The float32 agent acts, and the others get its observations; this needs a model that does not read past actions. same:
share of equal action tokens; near: of equal or adjacent ones. Errors of logits are relative to the
largest of a step, or 1.
"""

from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.loop import steps
from gato_agent.envs.spaces.flatten import columns
from gato_agent.inference.agent import Agent
from gato_agent.inference.make_agent import make_agent_and_envs

Reduced = Literal["bfloat16", "int8"]


@dataclass(frozen=True)
class Config:
    """Compare precisions."""

    env: tuple[str, ...]
    """Environment ids among the checkpoint's tasks."""
    checkpoint: str = "shipped"
    """Checkpoint: run folder, file, or shipped."""
    precision: tuple[Reduced, ...] = ("bfloat16", "int8")
    """Precisions to compare with float32."""
    device: str = "cpu"
    """Device: cpu or cuda, which has no int8."""
    steps: int = 10_000
    """Steps of each task, in ten parallel environments."""


class Watched:
    """Actor that compares each of its steps with those of other agents on the same observations."""

    def __init__(self, agent: Agent, others: list[Agent]) -> None:
        self.agent, self.others = agent, others
        self.off: list[list[NDArray[Any]]] = [[] for _ in others]  # bins between the actions' tokens
        self.worst = [0.0] * len(others)

    def reset(self, num_envs: int) -> None:
        """Reset all agents."""
        for agent in (self.agent, *self.others):
            agent.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Action of the first agent; the others' tokens and logits are compared with its."""
        action, tokens, logits = self._step(self.agent, observation, start)
        scale = max(1.0, *(part.abs().max().item() for part in logits))
        for i, other in enumerate(self.others):
            _, its_tokens, its_logits = self._step(other, observation, start)
            self.off[i].append(abs(its_tokens - tokens).ravel())
            errors = [(a - b).abs().max().item() for a, b in zip(its_logits, logits, strict=True)]
            self.worst[i] = max(self.worst[i], max(errors) / scale)
        return action

    def _step(self, agent: Agent, observation: Any, start: NDArray[np.bool_]) -> tuple[Any, NDArray[Any], list[Tensor]]:
        action = agent.act(observation, start)
        tokens = agent.tokenizer.encode_actions(columns(agent.task.action_space, action))
        return action, tokens, [part.clone() for part in agent._stepper.decoder.logits]


def main(config: Config) -> None:
    """Print a table as Markdown, a task and a precision a row."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint.load(None if config.checkpoint == "shipped" else config.checkpoint, config.device)
    console = Console()
    console.print("| task | weights | same | near | largest error of a logit |", "|---|---|---:|---:|---:|", sep="\n")
    for env in config.env:
        options: dict[str, Any] = {"device": config.device, "temperature": 0.0}
        with make_agent_and_envs(checkpoint, env, 10, **options) as (agent, envs):
            others = [Agent(checkpoint, agent.task, precision=each, **options) for each in config.precision]
            watched = Watched(agent, others)
            for _ in islice(steps(watched, envs, count(1_000_000)), config.steps):
                pass
        for precision, off, worst in zip(config.precision, watched.off, watched.worst, strict=True):
            bins = np.concatenate(off)
            console.print(
                f"| {env} | {precision} | {(bins == 0).mean():.2%} | {(bins <= 1).mean():.2%} | {worst:.4f} |"
            )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
