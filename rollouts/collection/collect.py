"""Collection of expert episodes, environments x seeds -> stores; it can be killed and resumed at any time."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import EnvironmentFault, GatoError, UsageError, reason
from gato_agent.envs.io.console import fitted, plain_console, plural
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.envs.tasks.task import Task, catalogue, families, find
from gato_agent.rollouts.collection.by_hand import INTRODUCTION, play_by_hand, window_options
from gato_agent.rollouts.collection.collect_config import CollectConfig
from gato_agent.rollouts.collection.dagger import Learner, SampledAgent
from gato_agent.rollouts.collection.episode_worker import CollectJob, Failed, Players, Result, idle_heartbeat
from gato_agent.rollouts.collection.like_random import FirstEpisodes
from gato_agent.rollouts.collection.prepare_job import prepare
from gato_agent.rollouts.collection.process_pool import play_in_processes
from gato_agent.rollouts.collection.progress import Report, Row
from gato_agent.rollouts.collection.ray_pool import play_on_ray
from gato_agent.rollouts.storage.compact import compact
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import EpisodeFilter, filtered_indices, write_filter
from gato_agent.rollouts.storage.writer import EpisodeWriter, Played

__all__ = ["CollectConfig", "collect"]

HEADINGS = ("environment", "expert", "episodes", "kept", "steps", "mean return", "catalogue", "MB")
OPTIONAL = ("MB", "catalogue", "expert", "steps")  # headings left out of narrow consoles, the first first
CAPTION = "catalogue: mean return of the catalogue's expert without noise"
RETRIES = 10  # of an environment's seeds, each in a new process, that may fail again
SHOWN_FAILURES = 5  # failures that the last message names

Play = Callable[[Sequence[CollectJob], Sequence[Sequence[int]]], Generator[list[Result], None, None]]


def collect(
    config: CollectConfig,
    learner: Learner | None = None,
    agent: SampledAgent | None = None,
    *,
    print_table: bool = True,
) -> None:
    """Collect the missing episodes of every environment, then print a summary.

    Args:
        config: options of the command.
        learner: the agent of `config.dagger`.
        agent: the agent of `config.checkpoint`, in place of an expert.
        print_table: print a table of the episodes at the end.

    Raises:
        UsageError: bad arguments, unknown environment or expert, or a folder made with other settings. It is raised
            before any episode is played.
        GatoError: some seeds failed; all other episodes are on disk.
    """
    kwargs = parse_kwargs(config.env_kwargs)
    config.check()
    episode_filter = EpisodeFilter(config.keep_above, config.success_only)
    episode_filter.check()
    console = plain_console()
    if window_options(config) is not None:
        console.print(INTRODUCTION, highlight=False, soft_wrap=True)
    names = _environments(config, console, learner or agent)
    jobs = [prepare(config, env, kwargs, learner, agent) for env in names]
    with ExitStack() as stack:
        stores = [stack.enter_context(EpisodeStore.create(config.out, job.header)) for job in jobs]
        failures = _collect(config, jobs, stores, console)
        rows: list[list[str]] = []
        problems: list[Exception] = []
        for store in stores:
            try:
                _complete(config, store, episode_filter)
                rows.append(_summary(store, _seeds(config), console))
            except (GatoError, OSError) as error:  # the other tasks are completed
                problems.append(error)
                console.print(f"{store.env_id}: {reason(error)}", highlight=False, markup=False, soft_wrap=True)
    if print_table:
        console.print(_table(config, stores, rows, console))
    if failures:
        raise EnvironmentFault(_failure_summary(failures))
    if problems:
        raise problems[0]


def _table(
    config: CollectConfig, stores: Sequence[EpisodeStore], rows: Sequence[Sequence[str]], console: Console
) -> Table:
    """Summary of all tasks; without catalogue scores if none is known."""
    known = any(map(_catalogue_score, stores))
    shown = [(i, name) for i, name in enumerate(HEADINGS) if known or name != "catalogue"]
    return fitted(
        console, [Column(name) for _, name in shown], [[row[i] or "unknown" for i, _ in shown] for row in rows],
        OPTIONAL, title=f"episodes in {config.out}", caption=CAPTION if known else None,
    )  # fmt: skip


def _complete(config: CollectConfig, store: EpisodeStore, episode_filter: EpisodeFilter) -> None:
    """Compact a task's episodes if none is missing, and store a filter that was asked for."""
    if config.compact and set(_seeds(config)) <= set(store.indices()):
        compact(store)
    if episode_filter != EpisodeFilter():
        write_filter(store, episode_filter)


def _environments(config: CollectConfig, console: Console, known_by: Learner | SampledAgent | None) -> list[str]:
    """Names of the environments as the user wrote them, without duplicates; raises UsageError for unknown ones."""
    names = list(config.env)
    for suite in families() if "all" in config.suite else config.suite:
        if suite not in families():
            raise UsageError(f"--suite {suite}: choose from {', '.join(families())}, or all")
        tasks = [task for task in catalogue().values() if task.suite == suite]
        with_expert = [
            task.id for task in tasks if task.expert_kind or config.expert != "catalogue" or config.checkpoint
        ]
        if left_out := [task.id for task in tasks if task.id not in with_expert]:
            console.print(f"{suite}: no expert for {', '.join(left_out)}", highlight=False, soft_wrap=True)
        if unknown := [name for name in with_expert if known_by is not None and not known_by.knows(name)]:
            option = "checkpoint" if config.checkpoint else "dagger"
            console.print(f"{suite}: --{option} does not know {', '.join(unknown)}", highlight=False, soft_wrap=True)
        names += [name for name in with_expert if name not in unknown]
    if not names:
        raise UsageError("--env: name at least one environment, such as CartPole-v1, or a --suite")
    return list({find_spec(name).id: name for name in reversed(names)}.values())[::-1]


def _seeds(config: CollectConfig) -> range:
    return range(config.seed, config.seed + config.episodes)


def _collect(
    config: CollectConfig, jobs: Sequence[CollectJob], stores: Sequence[EpisodeStore], console: Console
) -> list[Failed]:
    """Play and write the missing episodes; return the failures."""
    missing = [sorted(set(_seeds(config)).difference(store.indices())) for store in stores]
    rows = [
        Row(store.env_id, config.episodes, config.episodes - len(seeds), score=_catalogue_score(store))
        for store, seeds in zip(stores, missing, strict=True)
    ]
    play = _choose_play(config)
    first_episodes = [FirstEpisodes(_known(job)) for job in jobs]
    failures: list[Failed] = []
    # An interrupt writes what is played before it stops the workers.
    with Report(console, rows) as report, closing(play(jobs, missing)) as results, EpisodeWriter(stores) as writer:
        for batch in results:
            for result in batch:
                if isinstance(result, Played):
                    writer.add(result)
                    if message := first_episodes[result.job].add(result):
                        console.print(f"warning: {message}", highlight=False, markup=False, soft_wrap=True)
                elif result not in failures:
                    failures.append(result)
                    console.print(f"failed: {result.reason}", highlight=False, markup=False, soft_wrap=True)
            report(writer.poll())
        report(writer.finish())
    return failures


def _known(job: CollectJob) -> Task | None:
    """Task of the catalogue whose scores are comparable to the job's; None for random actions, agents or arguments."""
    agents = job.learner is not None or job.agent is not None
    comparable = job.expert != "random" and not agents and not job.header["env_kwargs"]
    return find(job.env_id) if comparable else None


def _choose_play(config: CollectConfig) -> Play:
    if config.ray:
        return partial(play_on_ray, address=config.ray, workers=config.workers, timeout=config.timeout)
    if window_options(config) is not None:
        return play_by_hand
    if config.workers == 0:
        return _play_in_process
    return partial(play_in_processes, workers=config.workers or 1, timeout=config.timeout, retries=RETRIES)


def _play_in_process(
    jobs: Sequence[CollectJob], missing: Sequence[Sequence[int]]
) -> Generator[list[Result], None, None]:
    """Play one episode after the other in this process."""
    with closing(Players(jobs)) as players:
        for job, seeds in enumerate(missing):
            for result in players.play(job, seeds, idle_heartbeat()):
                yield [result]


def _summary(store: EpisodeStore, seeds: range, console: Console) -> list[str]:
    """Row of the summary: the episodes of these seeds that are on disk. A line says how many end early."""
    present = [seed for seed in store.indices() if seed in seeds]
    stats = [store.stats(seed) for seed in present]
    whole = [each.total for each in stats if not each.lost]
    mean = f"{np.mean(whole):.2f}" if whole else "-"
    if len(whole) < len(stats):
        count = f"{len(stats) - len(whole):,} of {plural(len(stats), 'episode')}"
        text = f"{store.env_id}: {count} end where the expert was lost, and are not in the mean return"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    steps = sum(each.steps for each in stats)
    return [
        store.env_id, store.kind, f"{len(present):,}", f"{len(set(present) & set(filtered_indices(store))):,}",
        f"{steps:,}", mean, _catalogue_score(store), f"{store.size() / 1e6:.2f}",
    ]  # fmt: skip


def _catalogue_score(store: EpisodeStore) -> str:
    """Mean return of the catalogue's expert as text; empty if unknown, and for an environment with arguments."""
    task = None if store.env_kwargs else find(store.env_id)
    return "" if task is None or task.expert is None else f"{task.expert.mean:.2f}"


def _failure_summary(failures: Sequence[Failed]) -> str:
    """One line on all failures."""
    reasons = [failure.reason for failure in failures[:SHOWN_FAILURES]]
    more = len(failures) - len(reasons)
    count = f"{len(failures)} failures: " if len(failures) > 1 else ""
    rest = f"; and {more} more, printed above" if more else ""
    return (
        f"{count}{'; '.join(reasons)}{rest}; all other episodes are saved, and the same command retries the missing "
        "ones"
    )
