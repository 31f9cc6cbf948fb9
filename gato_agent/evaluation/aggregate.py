"""What the tasks of a family amount to, and how one evaluation compares with another."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gato_agent.envs.tasks.task import families
from gato_agent.evaluation.metrics import Interval, Sample, improvement, interval, iqm, iqm_of_tasks
from gato_agent.evaluation.results import OTHER, Results, TaskScore, family_of

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
    """Figures of several tasks; those of scores are of the tasks whose score is defined, null if there are none.

    Attributes:
        tasks: how many were evaluated.
        wanted: how many were to be.
        defined: how many have a score.
        iqm: interquartile mean over all their episodes (Agarwal et al. 2021, an episode for a run).
        iqm_ci95: its 95% interval, from a stratified bootstrap.
        iqm_of_tasks: interquartile mean over the tasks' means.
        iqm_of_tasks_ci95: likewise.
        mean: of the tasks' means.
        above_half: how many scores are above half of the expert's.
        success: mean share of successful episodes, of the tasks that know success.
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
    """Figures of some tasks, of `wanted` in all."""
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
    """Figures of every group of which a task was wanted, and of all."""
    return _summaries(results, GROUPS) | {ALL: _summary(results, (*families(), OTHER))}


def by_family(results: Results) -> dict[str, Summary]:
    """Figures of every suite of which a task was wanted."""
    return _summaries(results, {name: (name,) for name in (*families(), OTHER)})


def _summaries(results: Results, groups: dict[str, tuple[str, ...]]) -> dict[str, Summary]:
    found = {name: _summary(results, suites) for name, suites in groups.items()}
    return {name: summary for name, summary in found.items() if summary.wanted}


def _summary(results: Results, suites: Iterable[str]) -> Summary:
    tasks = [task for task in results.scores() if task.family in suites]
    left = [task_id for task_id in (*results.failed, *results.not_evaluated) if family_of(task_id) in suites]
    return summarise(tasks, len(tasks) + len(left))


def of_states(groups: Mapping[str, Summary]) -> float | None:
    """Mean of the groups' interquartile means, without those that are seen as pixels and those of unknown tasks."""
    found = [each.iqm for name, each in groups.items() if name not in (ALL, PIXELS, OTHER) and each.iqm is not None]
    return float(np.mean(found)) if found else None


@dataclass(frozen=True)
class Comparison:
    """How one evaluation does against another on the tasks that both have a score of.

    Attributes:
        tasks: how many these are.
        probability: that an episode of the first beats one of the second, ties half, averaged over the tasks.
        ci95: its 95% interval, from a stratified bootstrap.
    """

    tasks: int
    probability: float
    ci95: Interval


def compare(ours: Results, theirs: Results) -> dict[str, Comparison]:
    """Probability of improvement of `ours` over `theirs`, of every group and of all."""
    found: dict[str, Comparison] = {}
    for name, suites in {**GROUPS, ALL: (*families(), OTHER)}.items():
        both = [task for task in sorted(ours.tasks) if task in theirs.tasks and ours.tasks[task].family in suites]
        pairs = [(ours.tasks[task].sample(), theirs.tasks[task].sample()) for task in both]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if known:
            found[name] = Comparison(len(known), *improvement([x for x, _ in known], [y for _, y in known]))
    return found


def to_json(results: Results) -> dict[str, Any]:
    """What the results file of a finished evaluation says beside the tasks."""
    groups = by_group(results)
    return {
        "groups": {name: asdict(summary) for name, summary in groups.items()},
        "families": {name: asdict(summary) for name, summary in by_family(results).items()},
        "mean_of_groups_seen_as_states": of_states(groups),
    }
