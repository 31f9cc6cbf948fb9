"""Greedy choice among the 1,024 bins of a continuous action: mode, mean, or median (the agent's)?

    python benchmarks/choices.py --checkpoint shipped --env Walker2d-v5 FetchReach-v4

Greedy returns of the same episodes with each choice, decoded by PyTorch, as scores between random (0) and expert (1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Tensor

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.inference import agent
from gato_agent.inference.decoders import torch_decoder
from gato_agent.inference.decoders.sampling import choose
from gato_agent.training.validation import validate_in_env

Choice = Callable[..., Tensor]  # see `gato_agent.inference.decoders.sampling.choose`


def likeliest(logits: Tensor, **_: Any) -> Tensor:
    """Mode: [env, ids] -> [env]."""
    return logits.argmax(-1)


def mean(logits: Tensor, *, ordered: bool = False, **_: Any) -> Tensor:
    """Expected bin, rounded: [env, ids] -> [env]."""
    if not ordered:
        return logits.argmax(-1)
    return (logits.softmax(-1) @ torch.arange(logits.shape[1], dtype=logits.dtype)).round().long()


CHOICES: dict[str, Choice] = {"likeliest": likeliest, "mean": mean, "median": choose}


@dataclass(frozen=True)
class Config:
    """Compare greedy choices."""

    env: tuple[str, ...]
    """Environment ids with continuous actions, among the checkpoint's tasks."""
    checkpoint: str = "shipped"
    """Checkpoint: run folder, file, or shipped."""
    episodes: int = 10
    """Episodes for each task and choice, from seed 900,000 on."""


def main(config: Config) -> None:
    """Print a table as Markdown, a task a row."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint.load(None if config.checkpoint == "shipped" else config.checkpoint)
    setattr(agent, "make_decoder", lambda model, legal, *_, **__: torch_decoder.TorchDecoder(model, legal))  # noqa: B010
    console = Console()
    console.print(f"| task | {' | '.join(CHOICES)} |", "|---|" + "---:|" * len(CHOICES), sep="\n", highlight=False)
    for task in config.env:
        scores = []
        for choice in CHOICES.values():
            setattr(torch_decoder, "choose", choice)  # noqa: B010
            validation = validate_in_env(checkpoint, [task], config.episodes, "cpu", lambda line: None)
            scores.append("failed" if task in validation.failed else f"{validation.tasks[task].normalized:.2f}")
        console.print(f"| {task} | {' | '.join(scores)} |", highlight=False)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
