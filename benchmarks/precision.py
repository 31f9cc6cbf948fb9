"""What reduced precision changes: actions and logits of bfloat16 and int8 beside those of float32, on the same stream.

    python benchmarks/precision.py --env CartPole-v1 BabyAI-GoToLocal-v0 HalfCheetah-v5 --steps 10000

The float32 agent plays; the others see what it sees. For models that read no action, whose stream is the same whatever
they would have done. same: action tokens that are equal; near: or next to each other. Errors are over the largest logit
of the step, or 1.
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
    """What is played."""

    env: tuple[str, ...]
    """Tasks that the checkpoint knows."""
    checkpoint: str = "shipped"
    """Run folder, file, or shipped."""
    precision: tuple[Reduced, ...] = ("bfloat16", "int8")
    """Of the agents beside the one of float32."""
    device: str = "cpu"
    """cpu or cuda, which has no int8."""
    steps: int = 10_000
    """Of each task, in ten environments at once."""


class Watched:
    """An actor whose every step others would have taken, too."""

    def __init__(self, agent: Agent, others: list[Agent]) -> None:
        self.agent, self.others = agent, others
        self.off: list[list[NDArray[Any]]] = [[] for _ in others]  # bins between the actions' tokens
        self.worst = [0.0] * len(others)

    def reset(self, num_envs: int) -> None:
        """See `Actor`."""
        for agent in (self.agent, *self.others):
            agent.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """See `Actor`."""
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
        return action, tokens, [part.clone() for part in agent._decoder.logits]


def main(config: Config) -> None:
    """Print a table as Markdown, a task and a precision a row."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint.load(None if config.checkpoint == "shipped" else config.checkpoint, config.device)
    console = Console()
    console.print("| task | weights | same | near | largest error of a logit |", "|---|---|---:|---:|---:|", sep="\n")
    for env in config.env:
        how: dict[str, Any] = {"device": config.device, "temperature": 0.0}
        with make_agent_and_envs(checkpoint, env, 10, **how) as (agent, envs):
            others = [Agent(checkpoint, agent.task, precision=each, **how) for each in config.precision]
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
