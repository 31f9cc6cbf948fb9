"""Returns over whole episodes, beside what a random and an expert actor score."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table

from gato_agent.agent import Agent, find_task, resolve_device
from gato_agent.checkpoint import Checkpoint
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import write_files
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.make import make_vector, parse_kwargs
from gato_agent.envs.task import find
from gato_agent.rollouts.experts import load_expert
from gato_agent.rollouts.progress import progress
from gato_agent.scores import ci95, normalized

FIRST_SEED = 1_000_000  # collection counts seeds from 0, evaluation from here


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure returns of a checkpoint, or of an expert, in one or several environments."""

    env: tuple[str, ...] = ()
    """Environment ids; by default every task of the checkpoint."""
    checkpoint: str | None = None
    """Run folder or .safetensors file; by default the weights shipped with the package."""
    expert: str | None = None
    """Measure this instead of a checkpoint: `random`, `catalogue`, an SB3 zip, ... (as for collect)."""
    episodes: int = 50
    """Episodes per environment."""
    seed: int = FIRST_SEED
    """Seed of the first episode; the others follow."""
    n_envs: int = 16
    """Environments that are played at once."""
    temperature: float = 0.0
    """0 for the likeliest action, otherwise sampled."""
    device: str = "auto"
    """auto, cpu or cuda."""
    num_threads: int | None = None
    """CPU threads."""
    env_kwargs: str = "{}"
    """JSON object of arguments for the environments."""
    json: Path | None = None
    """Write the results to this file too."""


@dataclass(frozen=True)
class TaskScore:
    """Returns of one task; `normalized` is a fraction, null where it is undefined."""

    task: str
    episodes: int
    mean: float
    std: float
    ci95: tuple[float, float]
    random: float | None
    expert: float | None
    normalized: float | None


def score(task: str, returns: list[float]) -> TaskScore:
    """Summarise returns beside the catalogue's random and expert scores."""
    known = find(task)
    random = known.random.mean if known and known.random else None
    expert = known.expert.mean if known and known.expert else None
    mean = float(np.mean(returns))
    deviation = float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0
    return TaskScore(
        task, len(returns), mean, deviation, ci95(returns), random, expert, normalized(mean, random, expert)
    )


def episode_returns(
    actor: Actor, task: str, seeds: range, *, n_envs: int, env_kwargs: dict[str, Any]
) -> Iterator[tuple[int, float, int]]:
    """Play one episode per seed and yield (seed, return, length) as each ends."""
    total: dict[int, float] = defaultdict(float)
    with closing(make_vector(task, max(1, min(n_envs, len(seeds))), env_kwargs=env_kwargs)) as envs:
        for step in steps(actor, envs, seeds):
            total[step.seed] += step.reward
            if step.done:
                yield step.seed, total.pop(step.seed), step.t + 1


def evaluate(config: EvaluateConfig) -> list[TaskScore]:
    """Evaluate every environment, show a table, and write the JSON; a task that fails does not stop the others.

    Raises:
        UsageError: nothing to evaluate, or an id or file that does not exist.
        GatoError: some task failed; the others' results have been shown and written.
    """
    if config.episodes < 1:
        raise UsageError(f"--episodes {config.episodes}: at least one is needed")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    console, env_kwargs = Console(), parse_kwargs(config.env_kwargs)
    checkpoint = None if config.expert else Checkpoint.load(config.checkpoint, resolve_device(config.device))
    tasks = config.env or tuple(checkpoint.tasks if checkpoint else ())
    if not tasks:
        raise UsageError("which environments? name them with --env")
    results, failures = [], []
    for task in tasks:
        try:
            actor, kwargs = make_actor(config, checkpoint, task, env_kwargs)
            seeds = range(config.seed, config.seed + config.episodes)
            returns = {}
            with progress(console, task, config.episodes, "episodes", every=10.0) as update:
                for seed, value, _ in episode_returns(actor, task, seeds, n_envs=config.n_envs, env_kwargs=kwargs):
                    returns[seed] = value
                    update(len(returns), f"mean return {np.mean(list(returns.values())):.1f}")
            results.append(score(task, [returns[seed] for seed in seeds]))
        except GatoError as error:
            if len(tasks) == 1:
                raise
            failures.append(f"{task}: {error}")
    name = config.expert or (checkpoint.name if checkpoint else "")
    console.print(table(results, name))
    if config.json:
        data = {"actor": name, "tasks": [asdict(result) for result in results], "failed": failures}
        write_files({config.json: json.dumps(data, indent=2).encode()})
    if failures:
        raise GatoError(f"{len(failures)} of {len(tasks)} tasks failed: {'; '.join(failures)}")
    return results


def make_actor(
    config: EvaluateConfig, checkpoint: Checkpoint | None, task: str, env_kwargs: dict[str, Any]
) -> tuple[Actor, dict[str, Any]]:
    """The actor to measure, and the arguments of its environment (those it was trained with, unless given)."""
    if checkpoint is None:
        assert config.expert is not None
        with closing(make_vector(task, 1, env_kwargs=env_kwargs)) as envs:
            spaces = envs.single_observation_space, envs.single_action_space
        return load_expert(config.expert, task, *spaces, seed=config.seed), env_kwargs
    trained = checkpoint.tasks.get(task)
    kwargs = env_kwargs or (trained.env_kwargs if trained else {})
    with closing(make_vector(task, 1, env_kwargs=kwargs)) as envs:
        found = find_task(checkpoint, envs)
    device = resolve_device(config.device)
    return Agent(checkpoint, found, device=device, temperature=config.temperature, seed=config.seed), kwargs


def table(results: list[TaskScore], title: str) -> Table:
    """The results as a person reads them."""
    shown = Table(Column("task", no_wrap=True), title=title, box=box.SIMPLE, padding=0)
    for name in ("episodes", "mean", "95% interval", "random", "expert", "score"):
        shown.add_column(name, justify="right")
    shown.caption = "score: (mean - random) / (expert - random)"

    def number(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    for r in results:
        interval = f"{r.ci95[0]:.1f} to {r.ci95[1]:.1f}"
        references = number(r.random), number(r.expert), number(r.normalized, 3)
        shown.add_row(r.task, str(r.episodes), number(r.mean), interval, *references)
    return shown
