"""Collect episodes of experts: environments x seeds -> stores. Killed at any moment, it goes on where it was."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import EnvironmentFault, GatoError, UsageError, at_least, reason
from gato_agent.envs.files import below
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.make import find_spec, make_vector, parse_kwargs
from gato_agent.envs.spaces.flatten import space_to_json
from gato_agent.envs.tasks.packages import suite_of
from gato_agent.envs.tasks.task import Task, catalogue, families, find
from gato_agent.rollouts.collection.dagger import Learner, provenance
from gato_agent.rollouts.collection.episode_worker import CollectJob, Failed, Players, Result, idle_heartbeat
from gato_agent.rollouts.collection.like_random import FirstEpisodes
from gato_agent.rollouts.collection.process_pool import play_in_processes
from gato_agent.rollouts.collection.progress import Report, Row
from gato_agent.rollouts.collection.ray_pool import play_on_ray
from gato_agent.rollouts.experts.callables import CallableExpert, check_answer
from gato_agent.rollouts.experts.load import NO_NETWORK, Expert, load_expert
from gato_agent.rollouts.experts.sb3.obs_wrappers import parse_wrappers
from gato_agent.rollouts.storage.compact import compact
from gato_agent.rollouts.storage.episode_store import EpisodeStore, check_learnable
from gato_agent.rollouts.storage.filter import EpisodeFilter, kept, write_filter
from gato_agent.rollouts.storage.writer import EpisodeWriter, Played

HEADINGS = ("environment", "expert", "episodes", "kept", "steps", "mean return", "catalogue", "MB")
CAPTION = "catalogue: what an expert is known to score without noise"
ENGINES = {"box2d": ("box2d",), "bullet": ("pybullet",), "mujoco": ("mujoco",), "panda": ("pybullet",)}
ENGINES |= {"metaworld": ("mujoco",), "robotics": ("mujoco",)}
SECOND_CHANCES = 10  # for seeds of an environment to fail in a new process too; each costs its start
SAID = 5  # failures that are told one by one at the end

Play = Callable[[Sequence[CollectJob], Sequence[Sequence[int]]], Generator[list[Result], None, None]]


@dataclass(frozen=True)
class CollectConfig:
    """Collect episodes of an expert. Run it again to complete what was interrupted."""

    env: tuple[str, ...] = ()
    """Environment ids, one or several; module:Env-v0 imports the module first, and is stored as Env-v0."""
    suite: tuple[str, ...] = ()
    """Whole suites of the catalogue, beside --env or instead of it; all for every one."""
    expert: str = "catalogue"
    """catalogue (shipped or scripted), scripted, train, random, module:callable, hub:ORG/NAME, or an SB3 zip's path."""
    expert_statistics: str | None = None
    """Statistics of VecNormalize that an SB3 zip or model was trained behind: a .pkl or .npz file, or none; by default
    what lies beside the zip."""
    expert_wrappers: str | None = None
    """Wrappers that an SB3 zip or model was trained behind, as JSON, such as {"frame_stack": {"n": 4}}; by default what
    is said beside the zip, or fits."""
    episodes: int = 100
    """Episodes of each environment."""
    dagger: str | None = None
    """Let an agent act and keep what the expert would do as targets (DAgger): a run folder, a .safetensors file, or
    shipped. Its episodes go into an --out of their own; train on both folders."""
    dagger_beta: float = 0.25
    """Share of --dagger's steps in which the expert acts instead, in turns of 1 to 19 steps; 0 for the agent alone."""
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
    workers: int | None = None
    """Processes that play, 1 by default; the episodes are the same whatever their number. 0 plays in this process,
    where a step that hangs, leaks or aborts takes everything with it, and what is not yet saved."""
    ray: str | None = None
    """Play on a Ray cluster, by default with a worker for each of its CPUs: its address, auto, or local to start one
    here. Files and modules that are named must be readable there."""
    timeout: float = 300.0
    """Seconds after which a step that has not ended counts as hanging; its seed is given up."""
    keep_above: float | None = None
    """Mark the episodes whose return is at least this share of the expert's (0.8 in the paper), and use only those in
    training and export. All stay on disk; deleting keep.json undoes it."""
    success_only: bool = False
    """Mark the episodes that succeeded, likewise, in environments that report success."""
    compact: bool = True
    """Pack the episodes of an environment into few large files when all are there; more may be collected later."""
    num_threads: int = 1
    """Threads of each expert's network; small ones are fastest with one."""


def collect(config: CollectConfig, learner: Learner | None = None) -> None:
    """Collect what is missing of every environment, then print a summary.

    Args:
        config: what is asked for.
        learner: the agent of `config.dagger`.

    Raises:
        UsageError: bad arguments, unknown environment or expert, or a folder made with other settings; said before
            any episode is played.
        GatoError: seeds that gave no episode; all others are on disk.
    """
    kwargs = parse_kwargs(config.env_kwargs)
    at_least(1, episodes=config.episodes, num_threads=config.num_threads, train_steps=config.train_steps)
    at_least(0, seed=config.seed, workers=config.workers)
    if config.ray and config.workers == 0:
        raise UsageError("--workers 0 plays in this process, and --ray in others: give one of them")
    if not config.timeout > 0:
        raise UsageError(f"--timeout {config.timeout}: it must be above 0")
    if not 0 <= config.dagger_beta <= 1:
        raise UsageError(f"--dagger-beta {config.dagger_beta}: it must be from 0 to 1")
    if learner is not None and config.noise:
        raise UsageError("--dagger leaves the expert's path as --noise does: give one of them")
    rule = EpisodeFilter(config.keep_above, config.success_only)
    rule.check()
    console = plain_console()
    jobs = [_prepare(config, env, kwargs, learner) for env in _environments(config, console, learner)]
    with ExitStack() as stack:
        stores = [stack.enter_context(EpisodeStore.create(config.out, job.header)) for job in jobs]
        failures = _collect(config, jobs, stores, console)
        table = Table(Column(HEADINGS[0], no_wrap=True), *HEADINGS[1:], box=box.SIMPLE, padding=0)
        table.title, table.caption = f"episodes in {config.out}", CAPTION
        problems: list[Exception] = []
        for store in stores:
            try:
                _complete(config, store, rule)
                table.add_row(*_summary(store, _seeds(config)))
            except (GatoError, OSError) as error:  # the other tasks are completed
                problems.append(error)
                console.print(f"{store.env_id}: {reason(error)}", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    if failures:
        raise EnvironmentFault(_told(failures))
    if problems:
        raise problems[0]


def _complete(config: CollectConfig, store: EpisodeStore, rule: EpisodeFilter) -> None:
    """Compact a task's episodes if all are there, and mark those that are to be kept."""
    if config.compact and set(_seeds(config)) <= set(store.indices()):
        compact(store)
    if rule != EpisodeFilter():
        write_filter(store, rule)


def _environments(config: CollectConfig, console: Console, learner: Learner | None) -> list[str]:
    """The environments as the user named them, each once; a wrong one is said before any episode is played."""
    names = list(config.env)
    for suite in families() if "all" in config.suite else config.suite:
        if suite not in families():
            raise UsageError(f"--suite {suite}: there are {', '.join(families())}, and all")
        tasks = [task for task in catalogue().values() if task.suite == suite]
        able = [task.id for task in tasks if task.expert_kind or config.expert != "catalogue"]
        if left_out := [task.id for task in tasks if task.id not in able]:
            console.print(f"{suite}: no expert for {', '.join(left_out)}", highlight=False, soft_wrap=True)
        if unknown := [name for name in able if learner is not None and not learner.knows(name)]:
            console.print(f"{suite}: --dagger does not know {', '.join(unknown)}", highlight=False, soft_wrap=True)
        names += [name for name in able if name not in unknown]
    if not names:
        raise UsageError("--env: name at least one environment, such as CartPole-v1, or a --suite")
    return list({find_spec(name).id: name for name in reversed(names)}.values())[::-1]


def _seeds(config: CollectConfig) -> range:
    return range(config.seed, config.seed + config.episodes)


def _set_threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)


def _prepare(config: CollectConfig, env: str, kwargs: dict[str, Any], learner: Learner | None) -> CollectJob:
    """Make environment and expert once, to see that they can be made, and describe them."""
    if config.expert == "train":  # any other is given its threads where it plays; scripted ones need no torch at all
        _set_threads(config.num_threads)
    env_id, wrappers = find_spec(env).id, parse_wrappers(config.expert_wrappers)
    with closing(make_vector(env, 1, env_kwargs=kwargs)) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        check_learnable(env_id, *spaces)
        folder = below(config.out, "experts")
        expert = load_expert(
            config.expert, env_id, *spaces, config.seed,
            envs=envs, env_kwargs=kwargs, folder=folder, train_steps=config.train_steps,
            statistics=config.expert_statistics, wrappers=wrappers,
        )  # fmt: skip
        if isinstance(expert, CallableExpert):
            if "torch" in sys.modules:  # else the expert does without
                _set_threads(config.num_threads)
            check_answer(expert, envs, config.seed)
        if learner is not None:
            learner.check(envs)
    header = _header(env_id, kwargs, spaces, expert, config.noise)
    if learner is not None:
        header["learner"] = provenance(learner, config.dagger_beta)
        header["versions"]["torch"] = version("torch")
    return CollectJob(
        env, config.expert, config.seed, folder, config.train_steps, config.num_threads, header, learner,
        config.expert_statistics, wrappers,
    )  # fmt: skip


def _header(
    env_id: str, kwargs: dict[str, Any], spaces: tuple[gym.Space[Any], gym.Space[Any]], expert: Expert, noise: bool
) -> dict[str, Any]:
    """What task.json says of all episodes in its folder."""
    suite, task = suite_of(env_id), find(env_id)
    packages = ["gymnasium", "numpy", *([suite.package] if suite else []), *ENGINES.get(task.suite if task else "", ())]
    if expert.provenance["kind"] not in NO_NETWORK:
        packages += ["torch", "stable-baselines3"]
    return {
        "env_id": env_id,
        "env_kwargs": kwargs,
        "observation_space": space_to_json(spaces[0]),
        "action_space": space_to_json(spaces[1]),
        "expert": expert.provenance,
        "noise": noise,
        "versions": {name: version(name) for name in packages},
    }


def _collect(
    config: CollectConfig, jobs: Sequence[CollectJob], stores: Sequence[EpisodeStore], console: Console
) -> list[Failed]:
    """Play and write what is missing; return what could not be played."""
    missing = [sorted(set(_seeds(config)).difference(store.indices())) for store in stores]
    rows = [
        Row(store.env_id, config.episodes, config.episodes - len(seeds), _catalogue_score(store))
        for store, seeds in zip(stores, missing, strict=True)
    ]
    play = _way_to_play(config)
    watched = [FirstEpisodes(_known(job)) for job in jobs]
    failures: list[Failed] = []
    with Report(console, rows) as report, EpisodeWriter(stores) as writer, closing(play(jobs, missing)) as results:
        for group in results:
            for result in group:
                if isinstance(result, Played):
                    writer.add(result)
                    if said := watched[result.job].add(result):
                        console.print(f"warning: {said}", highlight=False, markup=False, soft_wrap=True)
                elif result not in failures:
                    failures.append(result)
                    console.print(f"failed: {result.reason}", highlight=False, markup=False, soft_wrap=True)
            report(writer.turn())
        report(writer.finish())
    return failures


def _known(job: CollectJob) -> Task | None:
    """The task of the catalogue that an expert can be compared with; None where it acts at random, or not alone."""
    alike = job.expert != "random" and job.learner is None and not job.header["env_kwargs"]
    return find(job.env_id) if alike else None


def _way_to_play(config: CollectConfig) -> Play:
    if config.ray:
        return partial(play_on_ray, address=config.ray, workers=config.workers, timeout=config.timeout)
    if config.workers == 0:
        return _play_here
    return partial(
        play_in_processes, workers=config.workers or 1, timeout=config.timeout, second_chances=SECOND_CHANCES
    )


def _play_here(jobs: Sequence[CollectJob], missing: Sequence[Sequence[int]]) -> Generator[list[Result], None, None]:
    """Play one episode after the other in this process."""
    with closing(Players(jobs)) as players:
        for job, seeds in enumerate(missing):
            for result in players.play(job, seeds, idle_heartbeat()):
                yield [result]


def _summary(store: EpisodeStore, seeds: range) -> list[str]:
    """One row of the table: all episodes that were asked for and are there."""
    there = [seed for seed in store.indices() if seed in seeds]
    stats = [store.stats(seed) for seed in there]
    mean = f"{np.mean([each.total for each in stats]):.2f}" if stats else "-"
    steps = sum(each.steps for each in stats)
    return [
        store.env_id, store.kind, f"{len(there):,}", f"{len(set(there) & set(kept(store))):,}",
        f"{steps:,}", mean, _catalogue_score(store), f"{store.size() / 1e6:.2f}",
    ]  # fmt: skip


def _catalogue_score(store: EpisodeStore) -> str:
    """The catalogue's expert score, in words; of an environment with other arguments it says nothing."""
    task = None if store.env_kwargs else find(store.env_id)
    return "unknown" if task is None or task.expert is None else f"{task.expert.mean:.2f}"


def _told(failures: Sequence[Failed]) -> str:
    """All failures in a line."""
    reasons = [failure.reason for failure in failures[:SAID]]
    more = len(failures) - len(reasons)
    counted = f"{len(failures)} failures: " if len(failures) > 1 else ""
    rest = f"; and {more} more, said above" if more else ""
    return (
        f"{counted}{'; '.join(reasons)}{rest}; all other episodes are in place, and the same command tries again what "
        "is missing"
    )
