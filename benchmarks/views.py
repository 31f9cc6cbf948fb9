"""Comparison of views: a nano model learns one task through each of several views, measured on held-out episodes.

    gato-agent collect --env BabyAI-GoToLocal-v0 --noise --episodes 1500 --out data/baby
    python benchmarks/views.py --data data/baby --steps 120 --play 100
    gato-agent collect --env Meta-World/push-v3 --noise --episodes 100 --out data/push
    python benchmarks/views.py --data data/push --steps 80

All views get equally many training tokens, so that one with fewer tokens a timestep gets more timesteps.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from gato_agent.checkpoints.checkpoint import TEXT_PIECES, Checkpoint, TrainedTask
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.spaces.views import EVERYTHING, View
from gato_agent.envs.tasks.task import Task, find
from gato_agent.evaluation.worker import play_episodes
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import open_stores
from gato_agent.tokens.text_tokenizer import TextTokenizer
from gato_agent.training.config import TrainConfig
from gato_agent.training.loss import action_loss
from gato_agent.training.trainer import Trainer

CELLS: list[dict[str, Any]] = [{"cells": "image", "sizes": [11, 6, 3]}]

SIZE = replace(GatoConfig.nano(), values_per_token=1, action_decoder=False)  # one token for each value of a view


@dataclass(frozen=True)
class Config:
    """Compare views of a task."""

    data: Path
    """Data: folder that `gato-agent collect --out` wrote, with one task."""
    steps: int = 120
    """Optimizer steps of 4,096 tokens."""
    held_out: float = 0.1
    """Validation split: share of the episodes, 0 to 1."""
    play: int = 0
    """Episodes to play after training, from seed 1,000,000 on; 0: none."""


def candidates(task: Task) -> dict[str, View]:
    """Views of a task by name: the catalogue's and alternatives."""
    views = {"catalogue": task.view, "everything": EVERYTHING}
    if task.suite == "babyai":
        views["cells"] = View.from_json(CELLS)
    if task.suite == "metaworld":
        views["not scaled"] = View(task.view.steps[:1])
    return views


def main(config: Config) -> None:
    """Train through each view and print a line for it."""
    torch.set_num_threads(1)
    (store,) = open_stores(config.data)
    episodes = [store.read(i) for i in store.indices()]
    learned = round(len(episodes) * (1 - config.held_out))
    known = find(store.env_id) or Task(store.env_id, "")
    texts = [text for episode in episodes for column in episode.observations.values() for text in column.flat
             if isinstance(text, str)]  # fmt: skip
    text = TextTokenizer.train(texts, SIZE.text) if texts else None
    pieces = known.text_pieces or TEXT_PIECES
    plain = TrainedTask(store.env_id, store.observation_space, store.action_space, pieces, store.env_kwargs)
    for name, view in candidates(known).items():
        task = replace(plain, view=view)
        start = time.process_time()
        model = learn(task, text, episodes[:learned], config.steps)
        seconds = time.process_time() - start
        loss, error = validate(model, tokenized(task, text, episodes[learned:]))
        line = f"{task.id} {name:10} {task.tokenizer(model.config, text).layout.length:4} tokens a timestep, "
        line += f"{seconds:4.0f} s of CPU; held out: {loss:.3f} nats, error {error:.4f} of the range"
        print(line, played(model, task, text, config.play) if config.play else "", flush=True)


def tokenized(task: TrainedTask, text: TextTokenizer | None, episodes: list[Episode]) -> TokenizedTask:
    """Tokenized episodes, through the task's view."""
    return TokenizedTask.of(task.id, task.tokenizer(SIZE, text), episodes)


def learn(task: TrainedTask, text: TextTokenizer | None, episodes: list[Episode], steps: int) -> Gato:
    """Train a nano model."""
    torch.manual_seed(0)
    trainer = Trainer(TrainConfig(steps=steps, warmup=min(50, steps // 4)), Gato(SIZE))
    sampler = BatchSampler([tokenized(task, text, episodes)], sequence_length=2 * SIZE.context, batch_size=4)
    for step in range(steps):
        trainer.update(sampler.batch(step))
    return trainer.model.eval()


@torch.no_grad()
def validate(model: Gato, task: TokenizedTask, batches: int = 16) -> tuple[float, float]:
    """Loss per action token in nats, and the likeliest token's distance from the right one as a share of all."""
    sampler = BatchSampler([task], sequence_length=2 * model.config.context, batch_size=4, seed=1)
    losses, errors = [], []
    for step in range(batches):
        batch = sampler.batch(step)
        losses_of_batch = action_loss(model, batch)
        losses.append((losses_of_batch.families.sum() / losses_of_batch.weights.sum()).item())
        seen = {"local": batch.local, "intervals": batch.intervals, "segment": batch.segment}
        positions = {"index": batch.index, "until": batch.until}
        hidden = model(batch.tokens, batch.patches, **seen, **positions).flatten(0, 1)
        targets = batch.targets
        for at, offset in enumerate(targets.offset):
            for low, high, rows, _ in targets.ranges[at]:
                state = hidden[targets.position[rows] + offset]
                off = (model.logits(state, low, high).argmax(1) + low - targets.ids[rows, at]).abs()
                errors.append(off.double().mean().item() / (high - low))
    return float(np.mean(losses)), float(np.mean(errors))


def played(model: Gato, task: TrainedTask, text: TextTokenizer | None, episodes: int) -> str:
    """Mean return of greedy play."""
    checkpoint, seeds = Checkpoint(model, {task.id: task}, text), range(1_000_000, 1_000_000 + episodes)
    with make_agent_and_envs(checkpoint, task.id, 16) as (agent, envs):
        returns = [each.total for each in play_episodes(agent, envs, seeds, task.id)]
    return f"; return {np.mean(returns):.3f} +- {np.std(returns) / episodes**0.5:.3f}"


if __name__ == "__main__":
    main(tyro.cli(Config))
