"""Warning about an expert that scores like random actions on a task of the catalogue.

The usual cause is a policy whose observations lack normalisation or a wrapper of its training.
"""

import math

from gato_agent.envs.tasks.task import Task
from gato_agent.rollouts.storage.writer import Played

EPISODES = 10  # that are compared
SHARE = 0.1  # least share of the gap between random actions and the catalogue's expert that passes


class FirstEpisodes:
    """Scores of the first episodes of one task's expert."""

    def __init__(self, task: Task | None) -> None:
        """Compare with the scores of a task of the catalogue; None never warns."""
        self._task, self._scores = task, list[float]()

    def add(self, played: Played) -> str | None:
        """Add an episode; after the tenth, return a warning if they score like random actions, else None."""
        if self._task is None or len(self._scores) == EPISODES:
            return None
        success, lost = played.episode.about.get("success"), played.episode.about.get("provenance", {}).get("lost")
        if lost and not self._task.by_success:  # the return of a part of an episode
            return None
        self._scores.append(float(bool(success)) if self._task.by_success else played.total)
        return warning(self._task, self._scores) if len(self._scores) == EPISODES else None


def warning(task: Task, scores: list[float]) -> str | None:
    """Warning for scores of episodes, returns or successes, that are like those of random actions; else None."""
    random, expert = task.reference(task.random), task.reference(task.expert)
    if random is None or expert is None or expert <= random:
        return None
    mean, gap = sum(scores) / len(scores), expert - random
    std = math.sqrt(random * (1 - random)) if task.by_success else (task.random.std if task.random else 0.0)
    chance = 2 * std / math.sqrt(len(scores))  # two standard errors of random actions
    if mean >= random + min(max(SHARE * gap, chance), gap / 2):
        return None
    what = "success" if task.by_success else "return"
    return (
        f"{task.id}: the expert's first {len(scores)} episodes have a mean {what} of {mean:.2f}, like random actions "
        f"({random:.2f}) and unlike the catalogue's expert ({expert:.2f}): does it need statistics or wrappers "
        "(--expert-statistics, --expert-wrappers)?"
    )
