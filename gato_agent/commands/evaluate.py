"""The verb `evaluate`: returns over whole episodes and normalised scores, of many tasks, resumable."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.report import write_report
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import lock_folder, write_files
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.json_output import STDOUT, write_json
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.envs.tasks.packages import suite_install_hint
from gato_agent.envs.tasks.task import catalogue, install_hint
from gato_agent.envs.tasks.task import families as suites
from gato_agent.evaluation import aggregate as summary
from gato_agent.evaluation.evaluate_config import EvaluateConfig
from gato_agent.evaluation.play_tasks import grouped, play_tasks, save_results
from gato_agent.evaluation.progress_table import families, table
from gato_agent.evaluation.recorded import ReplayOptions
from gato_agent.evaluation.references import as_expert, reference_jobs
from gato_agent.evaluation.results import FILE, Results, to_csv
from gato_agent.evaluation.worker import EvaluationJob, EvaluationSettings, expert_sha256
from gato_agent.inference.options import resolve_device
from gato_agent.rollouts.experts.sb3.obs_wrappers import parse_wrappers

__all__ = ["EvaluateConfig", "evaluate"]

VERSIONS = (
    "gato-agent", "gymnasium", "numpy", "torch", "ale-py", "box2d", "gymnasium-robotics", "metaworld", "minatar",
    "minigrid", "mujoco", "panda-gym", "pybullet", "pybullet-envs-gymnasium",
)  # fmt: skip
SHOWN = 5  # failures in the final error message


def evaluate(config: EvaluateConfig, *, print_table: bool = True) -> Results:
    """Evaluate all environments, print tables, and write results and report.

    Args:
        config: options of the command.
        print_table: print a table of the tasks at the end.

    Raises:
        UsageError: nothing to evaluate, an unknown id or file, an option out of range, or results of another
            evaluation in --out.
        GatoError: a task failed; the results of the others are printed and written.
    """
    config.check()
    checkpoint = None if config.plays_expert() else Checkpoint.load(config.checkpoint, "cpu")
    wanted, absent = _tasks_to_play(config, checkpoint)
    settings = _settings(config, checkpoint)
    name = checkpoint.name if checkpoint else config.expert or ""
    console = plain_console()
    with ExitStack() as stack:
        if config.out:
            stack.enter_context(lock_folder(config.out, "evaluate"))
        results = _begin(config, name, settings)
        results.not_evaluated |= {task: why for task, why in absent.items() if task not in results.tasks}
        jobs = [EvaluationJob(env, task, settings) for task, env in wanted.items() if task not in results.tasks]
        known = {task: env for task, env in wanted.items() if checkpoint is None or task in checkpoint.tasks}
        expert = _reference_expert(config, settings)
        jobs += reference_jobs(known, results.tasks, settings, expert)
        before = [task for task in wanted if task in results.tasks]
        try:
            play_tasks(config, jobs, results, console, before, alone=len(wanted) + len(absent) == 1)
            alike = {task: env for task, env in wanted.items() if task in results.tasks and task not in known}
            late = reference_jobs(alike, results.tasks, settings, expert)  # played as another task of equal spaces
            if late:
                play_tasks(config, late, results, console, list(alike), alone=True)
        finally:
            asked = [results.tasks[task] for task in wanted if task in results.tasks]
            if asked and print_table:
                console.print(table(asked, name, console))
        _finish(config, results, console, wanted)
    _raise_failures(results, [*wanted, *absent])
    return results


def _tasks_to_play(config: EvaluateConfig, checkpoint: Checkpoint | None) -> tuple[dict[str, str], dict[str, str]]:
    """Names by task id as the user wrote them, and install hints of tasks that are not installed."""
    names = list(config.env)
    for suite in suites() if "all" in config.suite else config.suite:
        if suite not in suites():
            raise UsageError(f"--suite {suite}: there are {', '.join(suites())}, and all")
        names += [task.id for task in catalogue().values() if task.suite == suite]
    if not names and checkpoint:
        names = list(checkpoint.tasks)
    if not names:
        raise UsageError("which environments? name them with --env or --suite")
    wanted: dict[str, str] = {}
    absent: dict[str, str] = {}
    for name in names:
        task = name.rpartition(":")[2]
        if command := install_hint(task) or suite_install_hint(task):
            absent[task] = f"{task} is not installed: {command}"
        else:
            wanted.setdefault(find_spec(name).id, name)
    return wanted, absent


def _reference_expert(config: EvaluateConfig, settings: EvaluationSettings) -> EvaluationSettings | None:
    """Settings of the expert beside a checkpoint; None without one."""
    if config.expert is None or config.plays_expert():
        return None
    return replace(
        as_expert(settings, config.expert), statistics=config.expert_statistics,
        wrappers=parse_wrappers(config.expert_wrappers),
    )  # fmt: skip


def _settings(config: EvaluateConfig, checkpoint: Checkpoint | None) -> EvaluationSettings:
    expert = config.expert if config.plays_expert() else None
    statistics, wrappers = (
        (config.expert_statistics, parse_wrappers(config.expert_wrappers)) if expert else (None, None)
    )
    own = (checkpoint.temperatures() if checkpoint else {}) or 0.0
    return EvaluationSettings(
        config.checkpoint, expert, checkpoint.sha256() if checkpoint else expert_sha256(expert),
        config.episodes, config.seed, config.n_envs, own if config.temperature is None else config.temperature,
        resolve_device(config.device), config.precision, config.prompt, config.demo, config.num_threads,
        parse_kwargs(config.env_kwargs), statistics, wrappers,
    )  # fmt: skip


def _begin(config: EvaluateConfig, actor: str, settings: EvaluationSettings) -> Results:
    """Results to be completed: those of --out, or empty ones."""
    fresh = Results(actor, settings.checkpoint, settings.sha256, settings.fingerprint(), _versions())
    if config.out is None or not (config.out / FILE).exists():
        return fresh
    saved = Results.load(config.out)
    differing = [key for key, value in fresh.settings.items() if saved.settings.get(key) != value]
    if differing:
        saved_settings = ", ".join(f"{key} {json.dumps(saved.settings.get(key))}" for key in differing)
        raise UsageError(f"{config.out} holds results with {saved_settings}: repeat that, or choose another --out")
    if saved.sha256 != fresh.sha256:
        raise UsageError(
            f"{config.out} holds results of other weights, of {saved.actor}: choose another --out for {actor}"
        )
    return replace(fresh, tasks=saved.tasks, versions=saved.versions)  # failed tasks are repeated


def _versions() -> dict[str, str]:
    """Versions of the installed packages on which returns depend."""
    versions: dict[str, str] = {}
    for package in VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _finish(config: EvaluateConfig, results: Results, console: Console, wanted: Mapping[str, str]) -> None:
    """Print the summary of families and write the final files and the report."""
    if len(results.tasks) > 1:
        console.print(families(summary.by_group(results), console))
    more = {"summary": summary.to_json(results)} if len(results.tasks) > 1 else {}
    save_results(config, results, more)
    if config.json == STDOUT:
        write_json(STDOUT, {**results.to_json(), **more}, indent=1)
    if config.out:
        write_files({config.out / "results.csv": to_csv(results)})
    if config.report and results.tasks:
        options = ReplayOptions(
            config.checkpoint, results.settings["expert"], parse_kwargs(config.env_kwargs), config.demo,
            config.expert_statistics if config.plays_expert() else None,
            parse_wrappers(config.expert_wrappers) if config.plays_expert() else None,
        )  # fmt: skip
        write_report([results], config.report, console, options, named=wanted, workers=config.workers)


def _raise_failures(results: Results, wanted: Sequence[str]) -> None:
    """Raise GatoError for failed tasks, and UsageError if no task was evaluated."""
    failures = list(results.failed.values())
    if len(failures) == 1 and len(wanted) == 1:
        raise GatoError(failures[0])
    if failures:
        more = f"; and {len(failures) - SHOWN} more, printed above" if len(failures) > SHOWN else ""
        raise GatoError(f"{len(failures)} of {len(wanted)} tasks failed: {'; '.join(failures[:SHOWN])}{more}")
    if not any(task in results.tasks for task in wanted):
        reasons = grouped({task: why for task, why in results.not_evaluated.items() if task in wanted})
        if len(reasons) == 1 and len(wanted) == 1:
            raise UsageError(reasons[0])
        raise UsageError(f"none of {len(wanted)} tasks could be evaluated: {'; '.join(reasons[:SHOWN])}")
