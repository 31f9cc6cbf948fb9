"""Collect episodes of experts: environments x seeds -> stores. Killed at any moment, it goes on where it was."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import iterate
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gato_agent.envs.errors import UsageError
from gato_agent.envs.loop import Step, steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.structure import Columns, space_to_json, stack
from gato_agent.rollouts.episode import Episode
from gato_agent.rollouts.experts import Expert, load_expert
from gato_agent.rollouts.noise import Noisy
from gato_agent.rollouts.store import EpisodeStore

GROUP_SECONDS = 1.0  # a commit costs some 10 ms, as much as many a short episode: not after every one


@dataclass(frozen=True)
class CollectConfig:
    """Collect episodes of an expert, one file per episode. Run it again to complete what was interrupted."""

    env: tuple[str, ...]
    """Environment ids, one or several; module:Env-v0 imports the module first."""
    expert: str = "catalogue"
    """catalogue (shipped), train (with SB3, now), random, module:callable, or the path of an SB3 zip or its folder."""
    episodes: int = 100
    """Episodes of each environment."""
    noise: bool = False
    """Replace some actions by random ones and keep the expert's own as targets: makes far better agents."""
    seed: int = 0
    """Seed of the first episode; the others follow. Also the seed of training the expert."""
    out: Path = Path("data")
    """Folder for the episodes, one folder per environment inside it."""
    env_kwargs: str = "{}"
    """Arguments of the environments, as JSON."""
    train_steps: int | None = None
    """Environment steps of --expert train; by default what suits the environment."""
    num_threads: int = 1
    """Threads of the expert's network; small ones are fastest with one."""


def collect(config: CollectConfig) -> None:
    """Collect what is missing of every environment, then print a summary.

    Raises:
        UsageError: bad arguments, unknown environment or expert, or a folder made with other settings.
        EnvironmentFault: an environment raised; complete episodes are on disk.
    """
    kwargs = _parse_kwargs(config.env_kwargs)
    if config.episodes < 1 or config.seed < 0:
        raise UsageError(f"--episodes {config.episodes} --seed {config.seed}: at least 1 episode, and no negative seed")
    if config.expert != "random":
        import torch

        torch.set_num_threads(config.num_threads)
    console = Console()
    table = Table("environment", "expert", "episodes", "steps", "mean return", "catalogue expert", "folder")
    for env_id in config.env:
        with contextlib.closing(make_vector(env_id, 1, env_kwargs=kwargs)) as envs:
            table.add_row(*_collect_one(config, env_id, kwargs, envs, console))
    console.print(table)


def _collect_one(
    config: CollectConfig, env_id: str, kwargs: dict[str, Any], envs: VectorEnv[Any, Any, Any], console: Console
) -> list[str]:
    """Collect one environment; return its row of the summary."""
    spaces = envs.single_observation_space, envs.single_action_space
    expert = load_expert(
        config.expert, env_id, *spaces, config.seed,
        env_kwargs=kwargs, folder=config.out / "experts", train_steps=config.train_steps,
    )  # fmt: skip
    header = _header(env_id, kwargs, spaces, expert, config.noise)
    actor = Noisy(expert, spaces[1]) if config.noise else expert
    with EpisodeStore.create(config.out, header) as store:
        seeds = range(config.seed, config.seed + config.episodes)
        present = set(store.indices())
        missing = [seed for seed in seeds if seed not in present]
        played = (_play(actor, envs, seed, header) for seed in missing)
        with _reporter(console, env_id, len(seeds), len(missing)) as report:
            for group in _groups(played, store):
                report(group)
        episodes = [store.read(seed) for seed in seeds]
    score = _catalogue_score(env_id)
    mean = np.mean([episode.total for episode in episodes])
    return [
        env_id, f"{expert.provenance['kind']} {expert.provenance['sha256'][:8]}", f"{len(episodes)}",
        f"{sum(map(len, episodes)):,}", f"{mean:.2f}", score, str(store.folder),
    ]  # fmt: skip


def _play(actor: Expert, envs: VectorEnv[Any, Any, Any], seed: int, header: dict[str, Any]) -> Episode:
    """Play the episode of one seed: a pure function of the seed, whatever was played before."""
    actor.seed(seed)
    noisy = actor if isinstance(actor, Noisy) else None
    taken: list[Step] = []
    labels: list[Any] = []
    for step in steps(actor, envs, [seed]):
        taken.append(step)
        if noisy is not None:
            labels.extend(iterate(envs.action_space, noisy.label))
    last = taken[-1]
    reported = [s.info[key] for s in taken for key in ("success", "is_success") if key in s.info]
    actions = stack(envs.single_action_space, [step.action for step in taken])
    provenance = {key: header[key] for key in ("env_id", "env_kwargs", "expert", "versions")}
    return Episode(
        observations=stack(envs.single_observation_space, [step.obs for step in taken] + [last.next_obs]),
        actions=actions,
        labels=_differing(stack(envs.single_action_space, labels), actions) if noisy else None,
        rewards=np.array([step.reward for step in taken], np.float64),
        terminated=last.terminated,
        truncated=last.truncated,
        success=any(map(bool, reported)) if reported else None,
        seed=seed,
        provenance=provenance | {"noise": noisy.level if noisy else 0.0},
    )


def _differing(labels: Columns, actions: Columns) -> Columns | None:
    """The labels, or None if they are the actions throughout."""
    return None if all(np.array_equal(labels[path], actions[path]) for path in actions) else labels


def _groups(episodes: Iterator[Episode], store: EpisodeStore) -> Iterator[list[Episode]]:
    """Commit episodes about once a second, and yield each group once it is on disk.

    When an episode raises, the complete ones before it are committed first.
    """
    pending: list[Episode] = []
    since = time.monotonic()
    try:
        for episode in episodes:
            pending.append(episode)
            if time.monotonic() - since >= GROUP_SECONDS:
                store.commit(pending)
                yield pending
                pending, since = [], time.monotonic()
    finally:
        store.commit(pending)
    if pending:
        yield pending


@contextlib.contextmanager
def _reporter(console: Console, env_id: str, total: int, missing: int) -> Iterator[Callable[[list[Episode]], None]]:
    """Yield what is called with each committed group: a progress bar on a terminal, else a line per group."""
    score = _catalogue_score(env_id)
    columns = (
        TextColumn(env_id), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"),
        TextColumn("{task.fields[rate]:,.0f} steps/s, mean return {task.fields[mean]:.2f}, catalogue expert " + score),
        TimeRemainingColumn(),
    )  # fmt: skip
    began, done, taken, returns = time.monotonic(), total - missing, 0, 0.0
    if done:
        console.print(f"{env_id}: {done} of {total} episodes were there already", highlight=False)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(env_id, total=total, completed=done, rate=0.0, mean=0.0)

        def report(group: list[Episode]) -> None:
            nonlocal done, taken, returns
            done, taken = done + len(group), taken + sum(map(len, group))
            returns += sum(episode.total for episode in group)
            rate, mean = taken / (time.monotonic() - began), returns / (done - total + missing)
            bar.update(task, completed=done, rate=rate, mean=mean)
            if not console.is_terminal:
                line = f"{env_id}: {done} of {total} episodes, {rate:,.0f} steps/s, mean return {mean:.2f}"
                console.print(line, highlight=False, soft_wrap=True)

        yield report


def _header(
    env_id: str, kwargs: dict[str, Any], spaces: tuple[gym.Space[Any], gym.Space[Any]], expert: Expert, noise: bool
) -> dict[str, Any]:
    """What task.json says of all episodes in its folder."""
    packages = ["gymnasium", "numpy"] + ["torch", "stable-baselines3"] * (expert.provenance["kind"] != "random")
    return {
        "env_id": env_id,
        "env_kwargs": kwargs,
        "observation_space": space_to_json(spaces[0]),
        "action_space": space_to_json(spaces[1]),
        "expert": expert.provenance,
        "noise": noise,
        "versions": {name: version(name) for name in packages},
    }


def _parse_kwargs(text: str) -> dict[str, Any]:
    try:
        kwargs = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--env-kwargs {text}: not JSON ({error}); write for instance '{{\"gravity\": -5}}'") from None
    if not isinstance(kwargs, dict):
        raise UsageError(f"--env-kwargs {text}: not a JSON object; write for instance '{{\"gravity\": -5}}'")
    return kwargs


def _catalogue_score(env_id: str) -> str:
    """The catalogue's expert score, in words."""
    from gato_agent.envs.task import find

    task = find(env_id)
    return "unknown" if task is None or task.expert is None else f"{task.expert.mean:.2f}"
