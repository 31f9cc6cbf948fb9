"""Value of decoding an action's tokens one after the other, against each token's own marginal distribution.

    python benchmarks/action_decoder.py --checkpoint runs/five --data data --holdout 0.1 --episodes 50

Both are in the same weights: the marginal states are those that would be trained without the correction. The loss is
that of held-out episodes in nats a token, the returns are greedy and paired by seed, as shares of random to expert.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.load import load_data
from gato_agent.envs.errors import UsageError
from gato_agent.envs.loop import steps
from gato_agent.envs.tasks.task import find
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.training.loss import action_loss

FIRST_SEED = 1_000_000
BATCHES = 8  # of held-out episodes


@dataclass(frozen=True)
class Config:
    """Compare the chain of an action's tokens with their marginals."""

    checkpoint: str = "shipped"
    """Checkpoint: run folder, file, or shipped."""
    data: Path | None = None
    """Folder that `gato-agent collect --out` wrote; without it no loss is measured."""
    holdout: float = 0.1
    """Share of episodes that `train --holdout` held out."""
    env: tuple[str, ...] = ()
    """Environments to play; by default all of the checkpoint."""
    episodes: int = 50
    """Episodes of each, 0 for none."""
    temperature: float = 0.0
    """Sampling temperature, 0 for greedy."""


def losses(checkpoint: Checkpoint, data: Path, holdout: float) -> tuple[float, float]:
    """Held-out loss of the chain and of the marginals, nats a token."""
    model = checkpoint.model
    held_out = load_data(data, model.config, None, None, holdout=holdout).held_out
    sampler = BatchSampler(held_out, sequence_length=2 * model.config.context, batch_size=16, seed=0)
    chain = marginal = weight = 0.0
    with torch.no_grad():
        for index in range(BATCHES):
            parts = action_loss(model, sampler.batch(index))
            chain += parts.families.sum().item()
            marginal += parts.marginal.sum().item()
            weight += parts.weights.sum().item()
    return chain / weight, marginal / weight


def scores(checkpoint: Checkpoint, env_id: str, config: Config, *, marginal: bool) -> NDArray[np.float64]:
    """Score of each episode, by seed: success where the task reports it, else return from random (0) to expert (1)."""
    totals, success = dict[int, float](), dict[int, float]()
    with make_agent_and_envs(
        checkpoint, env_id, min(5, config.episodes), temperature=config.temperature, marginal=marginal
    ) as (agent, envs):
        for step in steps(agent, envs, range(FIRST_SEED, FIRST_SEED + config.episodes)):
            totals[step.seed] = totals.get(step.seed, 0.0) + step.reward
            if "success" in step.info:
                success[step.seed] = max(success.get(step.seed, 0.0), float(step.info["success"]))
    if success:
        return np.array([success[seed] for seed in sorted(success)])
    task = find(env_id)
    if task is None or task.random is None or task.expert is None:
        raise UsageError(f"{env_id}: no random and expert score is known")
    returns = np.array([totals[seed] for seed in sorted(totals)])
    return (returns - task.random.mean) / (task.expert.mean - task.random.mean)


def main(config: Config) -> None:
    """Print the loss, and a table as Markdown, a task a row."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint.load(None if config.checkpoint == "shipped" else config.checkpoint)
    console = Console()
    if config.data is not None:
        chain, marginal = losses(checkpoint, config.data, config.holdout)
        console.print(f"held-out loss: chain {chain:.4f}, marginals {marginal:.4f}", highlight=False)
    if not config.episodes:
        return
    console.print("| task | chain | marginals | difference, 95% interval |", "|---|---:|---:|---:|", sep="\n")
    for env_id in config.env or tuple(checkpoint.tasks):
        both = [scores(checkpoint, env_id, config, marginal=marginal) for marginal in (False, True)]
        gain = both[0] - both[1]
        half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
        means = " | ".join(f"{each.mean():.3f}" for each in both)
        console.print(f"| {env_id} | {means} | {gain.mean():+.3f} ± {half:.3f} |", highlight=False)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
