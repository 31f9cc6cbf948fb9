"""Stages of a round: play, select, train, evaluate. Each resumes what it finds in its folder."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gato_agent.commands.collect import CollectConfig, collect
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.train import TrainConfig, fine_tuning, train
from gato_agent.envs.errors import UsageError
from gato_agent.evaluation.task_score import TaskScore
from gato_agent.improving.config import ImproveConfig
from gato_agent.improving.selection import Part, alike, copy_selected, statistics
from gato_agent.improving.stretches import encoded
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.task_folder import SPACES, folder_of

OWN = 10_000_000  # first seed of the agents' episodes, apart from those of demonstrations and evaluations
SEEDS = 1_000_000  # at most, of the episodes of one --seed
PARALLEL = 10  # environments of an evaluation


@dataclass(frozen=True)
class Stages:
    """Stages of the rounds of one task.

    Attributes:
        config: options of the command.
        env_id: registered id of the environment.
        env_kwargs: arguments of the environment, as JSON.
    """

    config: ImproveConfig
    env_id: str
    env_kwargs: str

    def folder(self, number: int) -> Path:
        """Folder of a round."""
        return self.config.out / f"round-{number}"

    def tries(self, number: int, count: int | None = None) -> list[EpisodeStore]:
        """Stores of the first `count` of a round's tries, by default of all; they have been played."""
        roots = [self.folder(number) / "episodes" / f"try-{each}" for each in range(count or self.config.tries)]
        return [EpisodeStore(folder_of(root, self.env_id)) for root in roots]

    def play(self, number: int, agent: Path) -> list[EpisodeStore]:
        """Play the missing tries of a round: the first is greedy, the others are sampled.

        The temperature is doubled after each sampled try that hardly differs from the greedy one: an agent that knows
        its demonstrations by heart is sure of its actions, right or wrong.
        """
        config, temperature = self.config, self.config.temperature
        for each in range(config.tries):
            collect(CollectConfig(
                env=(config.env,), checkpoint=str(agent), temperature=temperature if each else 0.0,
                sampling_seed=each, episodes=config.episodes, env_kwargs=self.env_kwargs, workers=config.workers,
                seed=OWN + SEEDS * config.seed + config.episodes * (number - 1), timeout=config.timeout,
                num_threads=config.num_threads, out=self.folder(number) / "episodes" / f"try-{each}",
            ), print_table=False)  # fmt: skip
            stores = self.tries(number, each + 1)
            if each and alike(statistics(stores[0]), statistics(stores[-1])):
                temperature *= 2
        return stores

    def select(self, number: int, stores: Sequence[EpisodeStore], parts: Sequence[Part]) -> Path:
        """Copy the chosen parts of episodes into a folder of the round; returns the folder.

        Raises:
            UsageError: the demonstrations have other spaces than the environment.
        """
        own = self.tries(number)[0].header
        for store in stores:
            if other := [name for name in SPACES if store.header[name] != own[name]]:
                raise UsageError(
                    f"{self.env_id}: the episodes in {store.folder} have another {other[0].replace('_', ' ')} than the "
                    "environment has now: leave them out of --data, or collect them again"
                )
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        expert = {"kind": "selection", "source": f"best of rounds 1 to {number}", "sha256": digest}
        root = self.folder(number) / "selected"
        with ExitStack() as stack:
            target = stack.enter_context(EpisodeStore.create(root, {**own, "expert": expert}))
            copy_selected(target, parts, partial(encoded, stores))
        return root

    def train(self, number: int, data: Sequence[Path], init: Path | None) -> None:
        """Train the agent of a round, from the weights of another one with a new optimizer."""
        config, out = self.config, self.folder(number) / "agent"
        options: dict[str, Any] = {
            "data": tuple(data), "out": out, "resume": (out / "config.json").exists(), "device": config.device,
            "steps": config.steps if number else config.first_steps, "seed": SEEDS * config.seed + number,
            "num_threads": config.num_threads,
        }  # fmt: skip
        if number:  # a rate that falls at the end: the agent of a constant one is worse by chance
            given = {"learning_rate": config.learning_rate, "batch_size": config.batch_size}
            options |= {key: value for key, value in given.items() if value is not None}
            options |= {"schedule": "cosine", "warmup": config.steps // 10}
        train(TrainConfig(size=config.size, **options) if init is None else fine_tuning(str(init), **options))

    def evaluate(self, agent: Path, seed: int, out: Path) -> TaskScore:
        """Evaluate an agent on seeds from `seed` on."""
        config = self.config
        results = evaluate(EvaluateConfig(
            env=(config.env,), checkpoint=str(agent), episodes=config.eval_episodes, seed=seed, n_envs=PARALLEL,
            env_kwargs=self.env_kwargs, device=config.device, num_threads=config.num_threads, workers=config.workers,
            timeout=config.timeout, out=out,
        ), print_table=False)  # fmt: skip
        return results.tasks[self.env_id]
