"""Aggregates of scores over families of tasks, and comparison of two evaluations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from gato_agent.envs.tasks.task import families
from gato_agent.evaluation.metrics import Interval, Sample, improvement, interval, iqm, iqm_of_tasks
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.task_score import OTHER, TaskScore, family_of

ALL = "all"
PIXELS = "pixels"
GROUPS = {  # families as published generalists count them -> suites of the catalogue
    "BabyAI": ("babyai",),
    "Meta-World": ("metaworld",),
    "MuJoCo": ("mujoco",),
    "classic, Box2D, toy text": ("classic", "box2d", "toytext"),
    "Bullet, Panda, Fetch": ("bullet", "panda", "robotics"),
    PIXELS: ("atari", "minatar", "babyai_rgb"),
    OTHER: (OTHER,),
}


@dataclass(frozen=True)
class Summary:
    """Aggregate scores of several tasks, over those whose score is defined; None if there are none.

    Attributes:
        tasks: number of evaluated tasks.
        wanted: number of tasks to be evaluated.
        defined: number of tasks with a score.
        iqm: interquartile mean over all their episodes (Agarwal et al. 2021, with an episode in place of a run).
        iqm_ci95: its 95% interval, from a stratified bootstrap.
        iqm_of_tasks: interquartile mean over the tasks' means.
        iqm_of_tasks_ci95: its 95% interval, from a stratified bootstrap.
        mean: of the tasks' means.
        above_half: number of scores above 0.5.
        success: mean success rate, over the tasks that report success.
    """

    tasks: int
    wanted: int
    defined: int
    iqm: float | None = None
    iqm_ci95: Interval | None = None
    iqm_of_tasks: float | None = None
    iqm_of_tasks_ci95: Interval | None = None
    mean: float | None = None
    above_half: int = 0
    success: float | None = None


def summarise(tasks: Sequence[TaskScore], wanted: int) -> Summary:
    """Aggregate scores of the evaluated ones of `wanted` tasks."""
    samples = [sample for task in tasks if (sample := task.sample()) is not None]
    successes = [task.success for task in tasks if task.success is not None]
    success = float(np.mean(successes)) if successes else None
    if not samples:
        return Summary(len(tasks), wanted, 0, success=success)
    means = [float(sample.mean()) for sample in samples]
    return Summary(
        len(tasks), wanted, len(samples), float(iqm(samples)), _pair(interval(iqm, samples)),
        float(iqm_of_tasks(samples)), _pair(interval(iqm_of_tasks, samples)), float(np.mean(means)),
        sum(mean > 0.5 for mean in means), success,
    )  # fmt: skip


def _pair(bounds: tuple[Sample, Sample]) -> Interval:
    return float(bounds[0]), float(bounds[1])


def by_group(results: Results) -> dict[str, Summary]:
    """Aggregate scores of each group of families with a task, and of all tasks."""
    return _summaries(results, GROUPS) | {ALL: _summary(results, (*families(), OTHER))}


def by_family(results: Results) -> dict[str, Summary]:
    """Aggregate scores of each suite with a task."""
    return _summaries(results, {name: (name,) for name in (*families(), OTHER)})


def _summaries(results: Results, groups: dict[str, tuple[str, ...]]) -> dict[str, Summary]:
    summaries = {name: _summary(results, suites) for name, suites in groups.items()}
    return {name: summary for name, summary in summaries.items() if summary.wanted}


def _summary(results: Results, suites: Iterable[str]) -> Summary:
    tasks = [task for task in results.scores() if task.family in suites]
    left = [task_id for task_id in (*results.failed, *results.not_evaluated) if family_of(task_id) in suites]
    return summarise(tasks, len(tasks) + len(left))


def of_states(groups: Mapping[str, Summary]) -> float | None:
    """Mean of the groups' interquartile means, without pixel observations and tasks outside the catalogue."""
    iqms = [each.iqm for name, each in groups.items() if name not in (ALL, PIXELS, OTHER) and each.iqm is not None]
    return float(np.mean(iqms)) if iqms else None


def shared(results: Sequence[Results]) -> list[Results]:
    """Results reduced to the tasks that every evaluation has; a single evaluation, or equal ones, as they are."""
    common = set.intersection(*(set(each.tasks) for each in results))
    if all(set(each.tasks) == common for each in results):
        return list(results)
    tables = [{name: task for name, task in each.tasks.items() if name in common} for each in results]
    return [
        replace(each, tasks=tasks, failed={}, not_evaluated={}) for each, tasks in zip(results, tables, strict=True)
    ]


def shared_note(results: Sequence[Results]) -> str:
    """Sentence on the tasks of a comparison; empty if all evaluations have the same."""
    counts = [len(each.tasks) for each in results]
    common = len(shared(results)[0].tasks)
    if all(count == common for count in counts):
        return ""
    own = ", ".join(f"{count} of {each.actor}" for count, each in zip(counts, results, strict=True))
    return f"Compared on the {common} task{'s' * (common != 1)} that all evaluations have: of {own}."


@dataclass(frozen=True)
class Comparison:
    """Comparison of two evaluations on the tasks in which both have a score.

    Attributes:
        tasks: number of these tasks.
        probability: of improvement of the first over the second, see `metrics.improvement`.
        ci95: its 95% interval, from a stratified bootstrap.
    """

    tasks: int
    probability: float
    ci95: Interval


def compare(first: Results, second: Results) -> dict[str, Comparison]:
    """Probability of improvement of `first` over `second`, in each group and in all tasks."""
    comparisons: dict[str, Comparison] = {}
    for name, suites in {**GROUPS, ALL: (*families(), OTHER)}.items():
        both = [task for task in sorted(first.tasks) if task in second.tasks and first.tasks[task].family in suites]
        pairs = [(first.tasks[task].sample(), second.tasks[task].sample()) for task in both]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if known:
            comparisons[name] = Comparison(len(known), *improvement([x for x, _ in known], [y for _, y in known]))
    return comparisons


def to_json(results: Results) -> dict[str, Any]:
    """Aggregates for the results file of a complete evaluation."""
    groups = by_group(results)
    return {
        "groups": {name: asdict(summary) for name, summary in groups.items()},
        "families": {name: asdict(summary) for name, summary in by_family(results).items()},
        "mean_of_groups_seen_as_states": of_states(groups),
    }
