"""Collect episodes of experts: environments x seeds -> stores. Killed at any moment, it goes on where it was."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import iterate
from rich import box
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import GatoError, UsageError, at_least
from gato_agent.envs.loop import Step, steps
from gato_agent.envs.make import find_spec, make_vector, parse_kwargs
from gato_agent.envs.structure import Columns, space_to_json, stack
from gato_agent.envs.task import find
from gato_agent.rollouts.episode import Episode
from gato_agent.rollouts.experts import Expert, load_expert
from gato_agent.rollouts.noise import Noisy
from gato_agent.rollouts.progress import Update, progress
from gato_agent.rollouts.store import EpisodeStore

HEADINGS = ("environment", "expert", "episodes", "steps", "mean return", "catalogue")
CAPTION = "catalogue: what an expert is known to score without noise"
GROUP_SECONDS = 1.0  # a commit costs some 10 ms, as much as many a short episode: not after every one


@dataclass(frozen=True)
class CollectConfig:
    """Collect episodes of an expert, one file per episode. Run it again to complete what was interrupted."""

    env: tuple[str, ...]
    """Environment ids, one or several; module:Env-v0 imports the module first, and is stored as Env-v0."""
    expert: str = "catalogue"
    """catalogue (shipped or scripted), scripted, train, random, module:callable, hub:ORG/NAME, or an SB3 zip's path."""
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
    kwargs = parse_kwargs(config.env_kwargs)
    if not config.env:
        raise UsageError("--env: name at least one environment, such as CartPole-v1")
    at_least(1, episodes=config.episodes, num_threads=config.num_threads, train_steps=config.train_steps)
    at_least(0, seed=config.seed)
    ids = [find_spec(env_id).id for env_id in config.env]  # a wrong one is said before any episode is played
    if config.expert != "random":
        import torch

        torch.set_num_threads(config.num_threads)
    console = Console()
    columns = (Column(HEADINGS[0], no_wrap=True), *HEADINGS[1:])
    table = Table(*columns, title=f"episodes in {config.out}", caption=CAPTION, box=box.SIMPLE, padding=0)
    for env_id in ids:
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
        envs=envs, env_kwargs=kwargs, folder=config.out / "experts", train_steps=config.train_steps,
    )  # fmt: skip
    header = _header(env_id, kwargs, spaces, expert, config.noise)
    actor = Noisy(expert, spaces[1]) if config.noise else expert
    with EpisodeStore.create(config.out, header) as store:
        seeds = range(config.seed, config.seed + config.episodes)
        present = set(store.indices())
        missing = [seed for seed in seeds if seed not in present]
        played = (_play(actor, envs, seed, header) for seed in missing)
        score, done = _catalogue_score(env_id, kwargs), len(seeds) - len(missing)
        if done:
            console.print(f"{env_id}: {done:,} of {len(seeds):,} episodes were there before", highlight=False)
        with progress(console, env_id, len(seeds), "episodes", done) as update:
            report = _Report(update, done, score)
            for group in _groups(played, store):
                report(group)
        totals = [(len(episode), episode.total) for episode in map(store.read, seeds)]
    lengths, returns = zip(*totals, strict=True)
    return [
        env_id,
        expert.provenance["kind"],
        f"{len(totals):,}",
        f"{sum(lengths):,}",
        f"{np.mean(returns):.2f}",
        score,
    ]


def _play(actor: Expert, envs: VectorEnv[Any, Any, Any], seed: int, header: dict[str, Any]) -> Episode:
    """Play the episode of one seed: a pure function of the seed, whatever was played before."""
    actor.seed(seed)
    noisy = actor if isinstance(actor, Noisy) else None
    taken: list[Step] = []
    labels: list[Any] = []
    space = envs.single_action_space
    for step in steps(actor, envs, [seed]):
        taken.append(step)
        if noisy is not None:
            labels.extend(iterate(envs.action_space, noisy.label))
        wanted = labels[-1] if noisy else step.action
        if not space.contains(wanted):  # nothing could be learned from it
            where = f"{header['env_id']}: step {step.t} of seed {seed}"
            raise GatoError(
                f"{where}: the expert's action {wanted!r} is not in {space}: clip or round it in the expert"
            )
    last = taken[-1]
    reported = [s.info[key] for s in taken for key in ("success", "is_success") if key in s.info]
    actions = stack(space, [step.action for step in taken])
    provenance = {key: header[key] for key in ("env_id", "env_kwargs", "expert", "versions")}
    return Episode(
        observations=stack(envs.single_observation_space, [step.obs for step in taken] + [last.next_obs]),
        actions=actions,
        labels=_differing(stack(space, labels), actions) if noisy else None,
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


class _Report:
    """Figures over the episodes of this run, for the progress bar."""

    def __init__(self, update: Update, done: int, score: str) -> None:
        self._update, self._done, self._score = update, done, score
        self._returns: list[float] = []
        self._steps = 0
        self._began = time.monotonic()

    def __call__(self, group: list[Episode]) -> None:
        """Report episodes that are on disk."""
        self._done += len(group)
        self._steps += sum(map(len, group))
        self._returns += [episode.total for episode in group]
        rate = self._steps / (time.monotonic() - self._began)
        text = f"{rate:,.0f} steps/s, mean return {np.mean(self._returns):.2f}, catalogue expert {self._score}"
        self._update(self._done, text)


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


def _catalogue_score(env_id: str, kwargs: dict[str, Any]) -> str:
    """The catalogue's expert score, in words; of an environment with other arguments it says nothing."""
    task = None if kwargs else find(env_id)
    return "unknown" if task is None or task.expert is None else f"{task.expert.mean:.2f}"
