"""Predictability ratio (Wen et al. 2020, Fighting Copycat Agents): does an agent repeat what it did?

    python benchmarks/copycat.py --checkpoint runs/hopper --data data --env Hopper-v5

A ridge regression predicts each action from the eight before it, for the expert's episodes in the data and for the
agent's own greedy ones; half of the episodes of each fit it and the other half test it. The ratio is the expert's
squared error over the agent's, each as a share of the variance of its actions. Far above 1 the agent's actions
follow from its own past ones more than from observations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from gymnasium.spaces import Discrete, Space
from numpy.typing import NDArray
from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.loop import steps
from gato_agent.envs.spaces.flatten import Columns, leaves, stack
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.rollouts.storage.episode_store import open_stores
from gato_agent.rollouts.storage.filter import training_indices

Floats = NDArray[np.float64]
PAST = 8  # actions that the next one is predicted from


@dataclass(frozen=True)
class Config:
    """Compare agent and expert."""

    env: tuple[str, ...]
    """Environment ids in both the checkpoint and the data."""
    data: Path
    """Expert episodes: folder that `gato-agent collect --out` wrote."""
    checkpoint: str = "shipped"
    """Checkpoint: run folder, file, or shipped."""
    episodes: int = 10
    """Episodes of each, at least 2; the agent's on seeds from 900,000 on."""


def vectors(space: Space[object], columns: Columns) -> Floats:
    """Actions as vectors float64 [steps, width]: discrete ones one-hot."""
    parts = []
    for leaf in leaves(space):
        values = np.asarray(columns[leaf.path])
        if isinstance(leaf.space, Discrete):
            parts.append(np.eye(int(leaf.space.n))[values - int(leaf.space.start)])
        else:
            parts.append(values.reshape(len(values), -1).astype(np.float64))
    return np.concatenate(parts, axis=1)


def error(episodes: Sequence[Floats]) -> float:
    """Squared error of predicting an action from the eight before it, over the variance of actions."""
    pairs = [
        (np.stack([each[i - PAST : i].ravel() for i in range(PAST, len(each))]), each[PAST:])
        for each in episodes if len(each) > PAST
    ]  # fmt: skip
    half = len(pairs) // 2
    if not half:
        return float("nan")
    (seen, wanted), (unseen, aim) = (
        [np.concatenate(part) for part in zip(*some, strict=True)] for some in (pairs[:half], pairs[half:])
    )
    with_bias = np.column_stack((seen, np.ones(len(seen))))
    weights = np.linalg.solve(with_bias.T @ with_bias + 1e-3 * np.eye(with_bias.shape[1]), with_bias.T @ wanted)
    off = aim - np.column_stack((unseen, np.ones(len(unseen)))) @ weights
    return float((off**2).sum() / max(((aim - aim.mean(0)) ** 2).sum(), 1e-12))


def expert_error(env_id: str, data: Path, episodes: int) -> float:
    """Error of predicting the expert's own actions."""
    actions: list[Floats] = []
    for store in open_stores(data):
        if store.env_id == env_id:
            for index in training_indices(store)[: episodes - len(actions)]:
                episode = store.read(index)
                actions.append(vectors(store.action_space, episode.targets))
    return error(actions)


def agent_error(checkpoint: Checkpoint, env_id: str, episodes: int) -> float:
    """Error of predicting the agent's own actions."""
    acted: dict[int, list[object]] = {}
    with make_agent_and_envs(checkpoint, env_id, 1, temperature=0.0) as (agent, envs):
        for step in steps(agent, envs, range(900_000, 900_000 + episodes)):
            acted.setdefault(step.seed, []).append(step.action)
        space = envs.single_action_space
    return error([vectors(space, stack(space, actions)) for actions in acted.values()])


def main(config: Config) -> None:
    """Print a table as Markdown, a task a row."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint.load(None if config.checkpoint == "shipped" else config.checkpoint)
    console = Console()
    console.print("| task | expert's error | agent's error | predictability ratio |", "|---|---:|---:|---:|", sep="\n")
    for env_id in config.env:
        expert = expert_error(env_id, config.data, config.episodes)
        agent = agent_error(checkpoint, env_id, config.episodes)
        console.print(f"| {env_id} | {expert:.3f} | {agent:.3f} | {expert / agent:.2f} |", highlight=False)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
