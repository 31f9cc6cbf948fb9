"""Returns over whole episodes, beside what a random and an expert actor score."""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gato_agent.agent import resolve_device
from gato_agent.checkpoint import Checkpoint
from gato_agent.engine import Precision
from gato_agent.envs.errors import GatoError, UsageError, at_least
from gato_agent.envs.files import write_files
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.make import find_spec, make_vector, parse_kwargs
from gato_agent.envs.task import Task, find
from gato_agent.rollouts.experts import load_expert
from gato_agent.rollouts.progress import progress
from gato_agent.scores import FIRST_SEED, ci95, normalized
from gato_agent.seating import seat


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
    """Environments that an agent plays at once; an expert plays one. Sampled actions depend on it."""
    temperature: float = 0.0
    """0 for the likeliest action, otherwise sampled."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Precision = "float32"
    """Of the weights, on a CPU: bfloat16 and int8 are faster for large models."""
    prompt: Literal["none", "text", "demo"] | None = None
    """What episodes begin with: none, or by default what the agent was trained with."""
    demo: Path | None = None
    """Folder of collected episodes, one of which is shown to an agent that was trained with --prompt demo."""
    num_threads: int | None = None
    """CPU threads."""
    env_kwargs: str = "{}"
    """JSON object of arguments for the environments."""
    json: Path | None = None
    """Write the results to this file too, after every task."""

    def check(self) -> None:
        """Raise UsageError for an option that cannot be."""
        at_least(1, episodes=self.episodes, n_envs=self.n_envs, num_threads=self.num_threads)
        at_least(0, seed=self.seed, temperature=self.temperature)
        if self.expert == "train":
            raise UsageError("--expert train is for collect, which keeps the expert: evaluate the zip that it made")


@dataclass(frozen=True)
class TaskScore:
    """Returns of one task; `normalized` is a fraction, null where it is undefined.

    `success` is the share of episodes that reported it, null where a task knows none. Where episodes end at success
    (Meta-World), `random`, `expert` and `normalized` are of it, otherwise of the return.
    """

    task: str
    episodes: int
    mean: float
    std: float
    ci95: tuple[float, float]
    random: float | None
    expert: float | None
    normalized: float | None
    success: float | None = None


class Played(NamedTuple):
    """What came of one episode; `success` is None where the task knows none."""

    seed: int
    total: float
    length: int
    success: bool | None


def score(task: str, episodes: Sequence[Played], *, comparable: bool = True) -> TaskScore:
    """Summarise episodes beside the catalogue's random and expert scores, where the environment is `comparable`."""
    known = (find(task) if comparable else None) or Task(task, "")
    random, expert = known.reference(known.random), known.reference(known.expert)
    returns = [episode.total for episode in episodes]
    reached = [episode.success for episode in episodes if episode.success is not None]
    mean, success = float(np.mean(returns)), float(np.mean(reached)) if reached else None
    achieved = success if known.by_success else mean
    return TaskScore(
        task, len(returns), mean, float(np.std(returns)), ci95(returns), random, expert,
        None if achieved is None else normalized(achieved, random, expert), success,
    )  # fmt: skip


def play_episodes(actor: Actor, envs: VectorEnv[Any, Any, Any], seeds: Iterable[int], task: str) -> Iterator[Played]:
    """Play one episode per seed and yield each as it ends."""
    name = (find(task) or Task(task, "")).success
    total: dict[int, float] = defaultdict(float)
    reached: dict[int, bool] = defaultdict(bool)
    for step in steps(actor, envs, seeds):
        total[step.seed] += step.reward
        if name is not None:
            reached[step.seed] |= bool(step.info.get(name, False))
        if step.done:
            success = reached.pop(step.seed, False) if name is not None else None
            yield Played(step.seed, total.pop(step.seed), step.t + 1, success)


def evaluate(config: EvaluateConfig) -> list[TaskScore]:
    """Evaluate every environment, show a table, and write the JSON; a task that fails does not stop the others.

    Raises:
        UsageError: nothing to evaluate, or an id, file or option that cannot be.
        GatoError: some task failed; the others' results have been shown and written.
    """
    config.check()
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    console = Console()
    checkpoint = None if config.expert else Checkpoint.load(config.checkpoint, resolve_device(config.device))
    tasks = [find_spec(name).id for name in config.env or (checkpoint.tasks if checkpoint else ())]
    if not tasks:
        raise UsageError("which environments? name them with --env")
    name = config.expert or (checkpoint.name if checkpoint else "")
    results: list[TaskScore] = []
    failures: dict[str, GatoError] = {}
    try:
        for task in tasks:
            try:
                results.append(evaluate_one(config, checkpoint, task, console))
            except GatoError as error:
                failures[task] = error
            if config.json:
                failed = {task: str(error) for task, error in failures.items()}
                data = {"actor": name, "tasks": [asdict(result) for result in results], "failed": failed}
                write_files({config.json: json.dumps(data, indent=2).encode()})
    finally:
        if results:
            console.print(table(results, name))
    if len(tasks) == 1 and failures:
        raise failures[tasks[0]]
    if failures:
        said = "; ".join(f"{task}: {error}" for task, error in failures.items())
        raise GatoError(f"{len(failures)} of {len(tasks)} tasks failed: {said}")
    return results


def evaluate_one(config: EvaluateConfig, checkpoint: Checkpoint | None, task: str, console: Console) -> TaskScore:
    """Play one task's episodes, showing progress."""
    kwargs = parse_kwargs(config.env_kwargs)
    seeds = range(config.seed, config.seed + config.episodes)
    episodes: dict[int, Played] = {}
    with contextlib.ExitStack() as stack:
        if checkpoint is None:
            actor, envs = stack.enter_context(_expert(config, task, kwargs))
        else:
            kwargs = kwargs or (checkpoint.tasks[task].env_kwargs if task in checkpoint.tasks else {})
            actor, envs = stack.enter_context(seat(
                checkpoint, task, min(config.n_envs, config.episodes), env_kwargs=kwargs,
                device=resolve_device(config.device), temperature=config.temperature, seed=config.seed,
                precision=config.precision, prompt=config.prompt, demo=config.demo,
            ))  # fmt: skip
        update = stack.enter_context(progress(console, task, config.episodes, "episodes", every=10.0))
        for played in play_episodes(actor, envs, seeds, task):
            episodes[played.seed] = played
            update(len(episodes), f"mean return {np.mean([each.total for each in episodes.values()]):.1f}")
    return score(task, [episodes[seed] for seed in seeds], comparable=not kwargs)


@contextlib.contextmanager
def _expert(
    config: EvaluateConfig, task: str, env_kwargs: dict[str, Any]
) -> Iterator[tuple[Actor, VectorEnv[Any, Any, Any]]]:
    """An expert and its environment: one lane, as it is collected from."""
    with contextlib.closing(make_vector(task, 1, env_kwargs=env_kwargs)) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        yield load_expert(config.expert or "", task, *spaces, config.seed, envs=envs), envs


def table(results: list[TaskScore], title: str) -> Table:
    """The results as a person reads them."""
    shown = Table(Column("task", no_wrap=True), title=escape(title), box=box.SIMPLE, padding=0)
    for name in ("episodes", "mean", "95% interval", "success", "random", "expert", "score"):
        shown.add_column(name, justify="right")
    shown.caption = "score: (mean - random) / (expert - random); of success where random and expert are in %"

    def number(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    for r in results:
        interval = f"{r.ci95[0]:.1f} to {r.ci95[1]:.1f}"
        by_success = (find(r.task) or Task(r.task, "")).by_success
        references = [percent(each) if by_success else number(each) for each in (r.random, r.expert)]
        success = percent(r.success)
        shown.add_row(r.task, str(r.episodes), number(r.mean), interval, success, *references, number(r.normalized, 3))
    return shown
