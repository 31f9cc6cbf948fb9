"""Tasks of an evaluation, played in processes, on a cluster or in this process, and entered into its results."""

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

from rich.console import Console

from gato_agent.envs.errors import GatoError
from gato_agent.envs.io.console import plural
from gato_agent.envs.io.json_output import STDOUT
from gato_agent.envs.tasks.task import find
from gato_agent.evaluation.evaluate_config import EvaluateConfig
from gato_agent.evaluation.progress_table import ProgressTable
from gato_agent.evaluation.references import ReferenceJob, References
from gato_agent.evaluation.results import FILE, Results
from gato_agent.evaluation.task_score import Outcome, score
from gato_agent.evaluation.worker import EvaluationJob, EvaluationWorker
from gato_agent.rollouts.collection.episode_worker import JOB, STEP, Failed, Result, idle_heartbeat
from gato_agent.rollouts.collection.like_random import EPISODES, warning
from gato_agent.rollouts.collection.process_pool import play_in_processes
from gato_agent.rollouts.collection.protocols import Watch
from gato_agent.rollouts.collection.ray_pool import play_on_ray


def play_tasks(
    config: EvaluateConfig, jobs: Sequence[EvaluationJob], results: Results, console: Console, before: Sequence[str],
    *, alone: bool,
) -> None:  # fmt: skip
    """Play the remaining tasks and save the results after each; the final error has the failure of a task alone."""
    done = [results.tasks[task] for task in before]
    names = [job.title if isinstance(job, ReferenceJob) else job.env_id for job in jobs]
    references, extra = References(), sum(isinstance(job, ReferenceJob) for job in jobs)
    with ProgressTable(console, names, results.actor, done, config.episodes, extra) as progress_table:
        for reason in () if alone else grouped(results.not_evaluated):
            progress_table.print_line(f"not evaluated: {reason}")
        with closing(_results_stream(config, jobs, progress_table)) as groups:
            for group in groups:
                lines = [_record(result, jobs[result.job], results, references) for result in group]
                if group:
                    save_results(config, results)
                for result, line in zip(group, lines, strict=True):  # after they are saved
                    if alone and line is not None and not isinstance(jobs[result.job], ReferenceJob):
                        continue
                    _show(result.job, names[result.job], line, results, progress_table)


def grouped(reasons: Mapping[str, str]) -> list[str]:
    """Reasons by task in a line each, or in one for tasks that lack the same package."""
    groups: dict[str, list[str]] = {}
    for task, why in reasons.items():
        groups.setdefault(why.removeprefix(f"{task} is "), []).append(task)
    return [
        reasons[tasks[0]] if len(tasks) == 1 else f"{plural(len(tasks), 'task')} from {tasks[0]} on are {why}"
        for why, tasks in groups.items()
    ]


def _results_stream(
    config: EvaluateConfig, jobs: Sequence[EvaluationJob], progress_table: ProgressTable
) -> Generator[list[Result], None, None]:
    seeds = [[config.seed] for _ in jobs]  # one seed a job: a job plays all episodes of its task
    if config.ray:
        return play_on_ray(jobs, seeds, config.ray, config.workers, config.timeout, players=EvaluationWorker)
    workers = config.workers
    if workers == 0:
        return _play_in_this_process(jobs, progress_table)
    if workers is None:
        workers = (os.cpu_count() or 1) if jobs and jobs[0].settings.device == "cpu" else 1
    return play_in_processes(
        jobs, seeds, workers, config.timeout, players=EvaluationWorker, ahead=1, watch=progress_table.watch
    )


def _play_in_this_process(
    jobs: Sequence[EvaluationJob], progress_table: ProgressTable
) -> Generator[list[Result], None, None]:
    """Play the tasks in turn in this process."""
    players, heartbeat = EvaluationWorker(jobs), _WatchedHeartbeat(progress_table.watch)
    for number, job in enumerate(jobs):
        for result in players.play(number, [job.settings.seed], heartbeat):
            yield [result]


class _WatchedHeartbeat(list[int]):
    """Heartbeat of this process, which passes its job and step to `watch` when the step is set."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(idle_heartbeat())
        self._watch = watch

    def __setitem__(self, entry: Any, value: Any) -> None:
        """Set an entry."""
        super().__setitem__(entry, value)
        if entry == STEP:
            self._watch(self[JOB], value)


def _record(result: Result, job: EvaluationJob, results: Results, references: References) -> str | None:
    """Enter a job's outcome into the results; returns a line for the user if it has no score of its own."""
    outcome = {} if isinstance(result, Failed) else json.loads(result.episode)
    failure = result.reason if isinstance(result, Failed) else outcome.get("skipped")
    if isinstance(job, ReferenceJob):
        if failure is not None:
            return f"no {job.role} score: {failure}"
        line = references.add(job, [Outcome(*each) for each in outcome["episodes"]])
        if job.env_id in results.tasks:
            results.tasks[job.env_id] = references.applied(results.tasks[job.env_id])
        return line
    if isinstance(result, Failed):
        results.failed[job.env_id] = result.reason
        return f"failed: {result.reason}"
    if failure is not None:
        results.not_evaluated[job.env_id] = failure
        return f"not evaluated: {failure}"
    episodes = [Outcome(*each) for each in outcome["episodes"]]
    comparable = not job.settings.env_kwargs
    try:
        known = score(job.env_id, episodes, comparable=comparable, seconds=outcome["seconds"])
    except GatoError as error:
        results.failed[job.env_id] = str(error)
        return f"failed: {error}"
    results.tasks[job.env_id] = references.applied(known)
    return None


def _show(job: int, name: str, line: str | None, results: Results, progress_table: ProgressTable) -> None:
    """Show a job's score, or the line in its place."""
    if line is not None:
        progress_table.add_line(job, line)
        return
    progress_table.add(job, results.tasks[name])
    if message := _like_random(name, results):
        progress_table.print_line(f"warning: {message}")


def _like_random(task: str, results: Results) -> str | None:
    """Warning for an expert that scores like random actions; None for an agent."""
    known, settings = find(task), results.settings
    if known is None or settings.get("expert") in (None, "random") or settings.get("env_kwargs"):
        return None
    task_score = results.tasks[task]
    values = [float(each) for each in (task_score.successes if known.by_success else task_score.returns) or ()][
        :EPISODES
    ]
    return warning(known, values) if len(values) == EPISODES else None


def save_results(config: EvaluateConfig, results: Results, more: Mapping[str, object] | None = None) -> None:
    """Write the results to the files that were asked for; `more` has further keys, which `Results.load` ignores."""
    for path in (config.out and config.out / FILE, config.json):
        if path not in (None, STDOUT):
            results.save(path, more)
