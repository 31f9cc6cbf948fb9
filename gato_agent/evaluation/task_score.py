"""Episodes of a task, and their score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gato_agent.envs.errors import GatoError
from gato_agent.envs.tasks.task import Task, find
from gato_agent.evaluation.metrics import Interval, Sample, ci95, normalized

OTHER = "other"  # family of a task outside the catalogue


class Outcome(NamedTuple):
    """Return, length in steps and success of one episode; `success` is None where the task does not report it.

    `terminated` is False if a time limit ended the episode, None where that is not known.
    """

    seed: int
    total: float
    length: int
    success: bool | None
    terminated: bool | None = None


@dataclass(frozen=True)
class TaskScore:
    """Returns and scores of one task.

    Attributes:
        task: its id.
        episodes: number of episodes.
        mean: of the returns.
        std: population standard deviation of the returns.
        ci95: 95% interval of the mean.
        random: score of random actions, None where it is not known.
        expert: score of the expert, None where it is not known.
        normalized: expert-normalised score, None where it is undefined.
        success: share of successful episodes, None where the task does not report success.
        family: suite of the catalogue.
        normalized_ci95: 95% interval of `normalized`.
        by_success: True if `random`, `expert` and `normalized` are of success, as in Meta-World; else of the return.
        steps: number of all steps.
        seconds: wall time of playing.
        steps_per_second: of all parallel environments together.
        returns: by seed.
        lengths: in steps, by seed.
        successes: by seed, None where the task does not report success.
        ended: share of episodes that ended before their time limit, None where it is not known.
    """

    task: str
    episodes: int
    mean: float
    std: float
    ci95: Interval
    random: float | None
    expert: float | None
    normalized: float | None
    success: float | None = None
    family: str = OTHER
    normalized_ci95: Interval | None = None
    by_success: bool = False
    steps: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0
    returns: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    successes: tuple[bool, ...] | None = None
    ended: float | None = None

    def sample(self) -> Sample | None:
        """Normalised score of each episode, float64 [episodes]; None where it is undefined."""
        achieved = self.successes if self.by_success else self.returns
        if self.normalized is None or not achieved or self.random is None or self.expert is None:
            return None
        return (np.asarray(achieved, np.float64) - self.random) / (self.expert - self.random)


def family_of(task_id: str) -> str:
    """Suite of a task in the catalogue, or `other`."""
    return (find(task_id) or Task(task_id, OTHER)).suite


def score(task: str, episodes: Sequence[Outcome], *, comparable: bool = True, seconds: float = 0.0) -> TaskScore:
    """Score of a task from its episodes.

    Args:
        task: its id.
        episodes: by seed, at least one.
        comparable: True if the catalogue's random and expert scores apply.
        seconds: wall time of playing.

    Raises:
        GatoError: a return is not finite.
    """
    for episode in episodes:
        if not math.isfinite(episode.total):
            raise GatoError(f"{task}: seed {episode.seed} has a return of {episode.total}: scale its rewards down")
    known = (find(task) if comparable else None) or Task(task, "")
    random, expert = known.reference(known.random), known.reference(known.expert)
    returns = tuple(episode.total for episode in episodes)
    reported = any(episode.success is not None for episode in episodes)  # some tasks report success only when it occurs
    reached = tuple(bool(episode.success) for episode in episodes if reported)
    mean, success = float(np.mean(returns)), float(np.mean(reached)) if reached else None
    achieved = success if known.by_success else mean
    steps, between = sum(episode.length for episode in episodes), ci95(returns)
    counted = ci95([float(each) for each in reached]) if known.by_success and reached else between
    low, high = (normalized(bound, random, expert) for bound in counted)
    terminated = [episode.terminated for episode in episodes if episode.terminated is not None]
    return TaskScore(
        task, len(returns), mean, float(np.std(returns)), between, random, expert,
        None if achieved is None else normalized(achieved, random, expert), success,
        family_of(task), None if low is None or high is None else (low, high),
        known.by_success, steps, seconds, steps / seconds if seconds else 0.0,
        returns, tuple(episode.length for episode in episodes), reached or None,
        sum(terminated) / len(terminated) if terminated else None,
    )  # fmt: skip
