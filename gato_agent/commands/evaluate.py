"""Returns over whole episodes, beside what a random and an expert actor score; many tasks at once, and resumable."""

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.report import write_report
from gato_agent.envs.errors import GatoError, UsageError, at_least
from gato_agent.envs.files import lock_folder, write_files
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.envs.tasks.packages import suite_install_hint
from gato_agent.envs.tasks.task import catalogue, find, install_hint
from gato_agent.envs.tasks.task import families as suites
from gato_agent.evaluation import aggregate as summary
from gato_agent.evaluation.metrics import FIRST_SEED
from gato_agent.evaluation.progress_table import ProgressTable, families, table, wide_console
from gato_agent.evaluation.recorded import Given
from gato_agent.evaluation.results import FILE, Outcome, Results, score, to_csv
from gato_agent.evaluation.worker import EvaluationJob, EvaluationSettings, EvaluationWorker, expert_sha256
from gato_agent.inference.decoder import Precision
from gato_agent.inference.options import resolve_device
from gato_agent.rollouts.collection.episode_worker import Failed, Result, idle_heartbeat
from gato_agent.rollouts.collection.like_random import EPISODES, warning
from gato_agent.rollouts.collection.process_pool import play_in_processes
from gato_agent.rollouts.collection.ray_pool import play_on_ray
from gato_agent.rollouts.experts.sb3.obs_wrappers import parse_wrappers

VERSIONS = (
    "gato-agent", "gymnasium", "numpy", "torch", "ale-py", "box2d", "gymnasium-robotics", "metaworld", "minatar",
    "minigrid", "mujoco", "panda-gym", "pybullet", "pybullet-envs-gymnasium",
)  # fmt: skip
SAID = 5  # failures that are told one by one at the end


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure returns of a checkpoint, or of an expert, in one or many environments.

    With --out, run it again to complete what was interrupted.
    """

    env: tuple[str, ...] = ()
    """Environment ids; without these and --suite every task of the checkpoint."""
    suite: tuple[str, ...] = ()
    """Whole suites of the catalogue, beside --env or instead of it; all for every one. Tasks that are not installed, or
    that the checkpoint does not know, are named and not evaluated."""
    checkpoint: str | None = None
    """Run folder or .safetensors file; by default the weights shipped with the package."""
    expert: str | None = None
    """Measure this instead of a checkpoint: `random`, `catalogue`, an SB3 zip, ... (as for collect)."""
    expert_statistics: str | None = None
    """Statistics of VecNormalize that an SB3 --expert was trained behind (as for collect): a file, or none."""
    expert_wrappers: str | None = None
    """Wrappers that an SB3 --expert was trained behind, as JSON (as for collect)."""
    episodes: int = 50
    """Episodes per environment."""
    seed: int = FIRST_SEED
    """Seed of the first episode; the others follow."""
    n_envs: int = 10
    """Environments that an agent plays at once, at most; an expert plays one. Sampled actions depend on it."""
    workers: int | None = None
    """Processes, each with one task at a time; by default one for each core, but no more than tasks, and one for a GPU.
    0 plays in this process, where a task that hangs, leaks or aborts takes everything with it."""
    ray: str | None = None
    """Play on a Ray cluster: its address, auto, or local to start one here. Checkpoints must be readable there."""
    timeout: float = 300.0
    """Seconds after which a step that has not ended counts as hanging; its task is given up."""
    temperature: float | None = None
    """0 for the likeliest action, of numbers the median; otherwise sampled. By default what the checkpoint has for
    the task: 0, unless something else was measured to be better."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Precision = "float32"
    """Of the weights: bfloat16, and on a CPU int8, are faster for large models."""
    prompt: Literal["none", "text", "demo"] | None = None
    """What episodes begin with: none, or by default what the agent was trained with."""
    demo: Path | None = None
    """Folder of collected episodes, one of which is shown to an agent that was trained with --prompt demo."""
    num_threads: int | None = None
    """CPU threads of each process; one by default where there are several."""
    env_kwargs: str = "{}"
    """JSON object of arguments for the environments."""
    out: Path | None = None
    """Keep results in this folder, as JSON and CSV, after every task; the same command completes what is missing."""
    json: Path | None = None
    """Write the results to this file too, after every task."""
    report: Path | None = None
    """Write a report into this folder: one HTML page, plots, and a short video of each task."""

    def check(self) -> None:
        """Raise UsageError for an option that cannot be."""
        at_least(1, episodes=self.episodes, n_envs=self.n_envs, num_threads=self.num_threads)
        at_least(0, seed=self.seed, temperature=self.temperature, workers=self.workers)
        if self.expert == "train":
            raise UsageError("--expert train is for collect, which keeps the expert: evaluate the zip that it made")
        if self.expert is None and (self.expert_statistics or self.expert_wrappers):
            raise UsageError("--expert-statistics and --expert-wrappers belong to an --expert: name one")
        if self.ray and self.workers == 0:
            raise UsageError("--workers 0 plays in this process, and --ray in others: give one of them")
        if not self.timeout > 0:
            raise UsageError(f"--timeout {self.timeout}: it must be above 0")


def evaluate(config: EvaluateConfig) -> Results:
    """Evaluate every environment, show tables, and write what was asked for.

    Raises:
        UsageError: nothing to evaluate, an id, file or option that cannot be, or results of another evaluation in
            --out.
        GatoError: some task failed; the others' results have been shown and written.
    """
    config.check()
    checkpoint = None if config.expert else Checkpoint.load(config.checkpoint, "cpu")
    wanted, absent = _wanted(config, checkpoint)
    settings_of_run = _conditions(config, checkpoint)
    name = config.expert or (checkpoint.name if checkpoint else "")
    console = wide_console()
    with ExitStack() as stack:
        if config.out:
            stack.enter_context(lock_folder(config.out, "evaluate"))
        results = _begin(config, name, settings_of_run)
        results.not_evaluated |= {task: why for task, why in absent.items() if task not in results.tasks}
        jobs = [EvaluationJob(env, task, settings_of_run) for task, env in wanted.items() if task not in results.tasks]
        try:
            _play(config, jobs, results, console, [task for task in wanted if task in results.tasks])
        finally:
            asked = [results.tasks[task] for task in wanted if task in results.tasks]
            if asked:
                console.print(table(asked, name, console))
        _finish(config, results, console, wanted)
    _complain(results, [*wanted, *absent])
    return results


def _wanted(config: EvaluateConfig, checkpoint: Checkpoint | None) -> tuple[dict[str, str], dict[str, str]]:
    """Tasks to be played, by id, as the user named them; and those that are not installed, with what brings them."""
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


def _conditions(config: EvaluateConfig, checkpoint: Checkpoint | None) -> EvaluationSettings:
    own = (checkpoint.temperatures() if checkpoint else {}) or 0.0
    return EvaluationSettings(
        config.checkpoint, config.expert, checkpoint.sha256() if checkpoint else expert_sha256(config.expert),
        config.episodes, config.seed, config.n_envs, own if config.temperature is None else config.temperature,
        resolve_device(config.device), config.precision, config.prompt, config.demo, config.num_threads,
        parse_kwargs(config.env_kwargs), config.expert_statistics, parse_wrappers(config.expert_wrappers),
    )  # fmt: skip


def _begin(config: EvaluateConfig, actor: str, settings_of_run: EvaluationSettings) -> Results:
    """Results to be completed: those of --out, or new ones."""
    fresh = Results(actor, settings_of_run.checkpoint, settings_of_run.sha256, settings_of_run.settings(), _versions())
    if config.out is None or not (config.out / FILE).exists():
        return fresh
    kept = Results.load(config.out)
    differing = [key for key, value in fresh.settings.items() if kept.settings.get(key) != value]
    if differing:
        said = ", ".join(f"{key} {json.dumps(kept.settings.get(key))}" for key in differing)
        raise UsageError(f"{config.out} holds results with {said}: repeat that, or choose another --out")
    if kept.sha256 != fresh.sha256:
        raise UsageError(
            f"{config.out} holds results of other weights, of {kept.actor}: choose another --out for {actor}"
        )
    return replace(fresh, tasks=kept.tasks, versions=kept.versions)  # the others are tried again


def _versions() -> dict[str, str]:
    """Of the packages that figures hang on, those that are installed."""
    found: dict[str, str] = {}
    for package in VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _play(
    config: EvaluateConfig, jobs: Sequence[EvaluationJob], results: Results, console: Console, before: Sequence[str]
) -> None:
    """Play what is missing, and keep every result as it comes."""
    done = [results.tasks[task] for task in before]
    names = [job.env_id for job in jobs]
    with ProgressTable(console, names, results.actor, done, config.episodes) as progress_table:
        for reason in results.not_evaluated.values():
            progress_table.say(f"not evaluated: {reason}")
        with closing(_way_to_play(config, jobs, progress_table)) as groups:
            for group in groups:
                for result in group:
                    _note(result, jobs[result.job], results)
                if group:
                    _keep(config, results)
                for result in group:  # now that they are kept
                    _show(result.job, names[result.job], results, progress_table)


def _way_to_play(
    config: EvaluateConfig, jobs: Sequence[EvaluationJob], progress_table: ProgressTable
) -> Generator[list[Result], None, None]:
    seeds = [[config.seed] for _ in jobs]  # one a job: a task is played whole
    if config.ray:
        return play_on_ray(jobs, seeds, config.ray, config.workers, config.timeout, players=EvaluationWorker)
    workers = config.workers
    if workers == 0:
        return _play_here(jobs, progress_table)
    if workers is None:
        workers = (os.cpu_count() or 1) if jobs and jobs[0].settings_of_run.device == "cpu" else 1
    return play_in_processes(
        jobs, seeds, workers, config.timeout, players=EvaluationWorker, ahead=1, watch=progress_table.watch
    )


def _play_here(jobs: Sequence[EvaluationJob], progress_table: ProgressTable) -> Generator[list[Result], None, None]:
    """Play one task after the other in this process."""
    players = EvaluationWorker(jobs)
    for number, job in enumerate(jobs):
        heartbeat = progress_table.follow(number, idle_heartbeat())
        for result in players.play(number, [job.settings_of_run.seed], heartbeat):
            yield [result]


def _note(result: Result, job: EvaluationJob, results: Results) -> None:
    """Enter what came of a task."""
    if isinstance(result, Failed):
        results.failed[job.env_id] = result.reason
        return
    outcome = json.loads(result.episode)
    if "skipped" in outcome:
        results.not_evaluated[job.env_id] = outcome["skipped"]
        return
    episodes = [Outcome(*each) for each in outcome["episodes"]]
    comparable = not job.settings_of_run.env_kwargs
    try:
        results.tasks[job.env_id] = score(job.env_id, episodes, comparable=comparable, seconds=outcome["seconds"])
    except GatoError as error:
        results.failed[job.env_id] = str(error)


def _show(job: int, task: str, results: Results, progress_table: ProgressTable) -> None:
    if task in results.tasks:
        progress_table.add(job, results.tasks[task])
        if said := _like_random(task, results):
            progress_table.say(f"warning: {said}")
    elif task in results.failed:
        progress_table.broken(job, f"failed: {results.failed[task]}")
    else:
        progress_table.broken(job, f"not evaluated: {results.not_evaluated[task]}")


def _like_random(task: str, results: Results) -> str | None:
    """The warning for an expert that scores like random actions; None for an agent, which may."""
    known, settings = find(task), results.settings
    if known is None or settings.get("expert") in (None, "random") or settings.get("env_kwargs"):
        return None
    found = results.tasks[task]
    figures = [float(each) for each in (found.successes if known.by_success else found.returns) or ()][:EPISODES]
    return warning(known, figures) if len(figures) == EPISODES else None


def _keep(config: EvaluateConfig, results: Results, more: Mapping[str, object] | None = None) -> None:
    for path in filter(None, (config.out and config.out / FILE, config.json)):
        results.save(path, more)


def _finish(config: EvaluateConfig, results: Results, console: Console, wanted: Mapping[str, str]) -> None:
    """Summarise families, and write what is only written at the end."""
    if len(results.tasks) > 1:
        console.print(families(summary.by_group(results)))
    _keep(config, results, {"summary": summary.to_json(results)} if len(results.tasks) > 1 else None)
    if config.out:
        write_files({config.out / "results.csv": to_csv(results)})
    if config.report and results.tasks:
        given = Given(
            config.checkpoint, config.expert, parse_kwargs(config.env_kwargs), config.demo, config.expert_statistics,
            parse_wrappers(config.expert_wrappers),
        )  # fmt: skip
        write_report([results], config.report, console, given, named=wanted, workers=config.workers)


def _complain(results: Results, wanted: Sequence[str]) -> None:
    """Raise where a task failed, or where there is none to show."""
    failures = list(results.failed.values())
    if len(failures) == 1 and len(wanted) == 1:
        raise GatoError(failures[0])
    if failures:
        more = f"; and {len(failures) - SAID} more, said above" if len(failures) > SAID else ""
        raise GatoError(f"{len(failures)} of {len(wanted)} tasks failed: {'; '.join(failures[:SAID])}{more}")
    if not any(task in results.tasks for task in wanted):
        reasons = [results.not_evaluated[task] for task in wanted if task in results.not_evaluated]
        if len(reasons) == 1:
            raise UsageError(reasons[0])
        raise UsageError(f"none of {len(wanted)} tasks could be evaluated: {'; '.join(reasons[:SAID])}")
