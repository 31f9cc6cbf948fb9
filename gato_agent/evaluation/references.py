"""Scores of random actions and of the user's expert in tasks that the catalogue has no scores of, on the same seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gato_agent.envs.tasks.task import find
from gato_agent.evaluation.metrics import normalized
from gato_agent.evaluation.task_score import Outcome, TaskScore
from gato_agent.evaluation.worker import EvaluationJob, EvaluationSettings

Role = Literal["random", "expert"]


@dataclass(frozen=True)
class ReferenceJob(EvaluationJob):
    """Task to be played by random actions or an expert, as a reference of the agent's score."""

    role: Role

    @property
    def title(self) -> str:
        """Name in messages."""
        return f"{self.env_id} ({self.settings.expert})"


def needs_references(task: str, settings: EvaluationSettings) -> bool:
    """True if an agent plays a task whose scores are not in the catalogue: another id, or other arguments."""
    return settings.expert is None and (find(task) is None or bool(settings.env_kwargs))


def reference_jobs(
    wanted: Mapping[str, str], scores: Mapping[str, TaskScore], settings: EvaluationSettings,
    expert: EvaluationSettings | None,
) -> list[ReferenceJob]:  # fmt: skip
    """Jobs of missing references.

    Args:
        wanted: names as the user wrote them, by task.
        scores: of tasks that were evaluated before.
        settings: of the agent's evaluation.
        expert: settings of the expert; None for random actions alone.
    """
    roles: dict[Role, EvaluationSettings] = {"random": as_expert(settings, "random")}
    if expert is not None:
        roles["expert"] = expert
    return [
        ReferenceJob(env, task, own, role)
        for task, env in wanted.items() if needs_references(task, settings)
        for role, own in roles.items() if task not in scores or getattr(scores[task], role) is None
    ]  # fmt: skip


def as_expert(settings: EvaluationSettings, expert: str) -> EvaluationSettings:
    """Settings of an expert in the episodes of an agent's evaluation."""
    return replace(settings, checkpoint=None, sha256=None, expert=expert, temperature=0.0, prompt=None, demo=None)


class References:
    """Mean returns of references by task, which complete in any order before or after the agent's score."""

    def __init__(self) -> None:
        self._means: dict[str, dict[Role, float]] = {}

    def add(self, job: ReferenceJob, episodes: list[Outcome]) -> str:
        """Add the episodes of a reference; returns a line for the user."""
        mean = float(np.mean([episode.total for episode in episodes]))
        self._means.setdefault(job.env_id, {})[job.role] = mean
        return f"{job.title}: mean {mean:,.2f}, the {job.role} score"

    def applied(self, score: TaskScore) -> TaskScore:
        """A score with the references of its task that are known, and normalised if both are."""
        means = self._means.get(score.task)
        if means is None:
            return score
        random, expert = means.get("random", score.random), means.get("expert", score.expert)
        low, high = (normalized(bound, random, expert) for bound in score.ci95)
        interval = None if low is None or high is None else (low, high)
        known = normalized(score.mean, random, expert)
        return replace(score, random=random, expert=expert, normalized=known, normalized_ci95=interval)
