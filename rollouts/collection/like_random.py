"""A warning where an expert scores like random actions, although better is known of its task.

That is what becomes of a sound policy that sees observations which are not normalised, or lack a wrapper.
"""

import math

from gato_agent.envs.tasks.task import Task
from gato_agent.rollouts.storage.writer import Played

EPISODES = 10  # that are looked at
SHARE = 0.1  # of the way from random actions to the catalogue's expert, at least, that tells an expert from the former


class FirstEpisodes:
    """Watches the first episodes of one task's expert."""

    def __init__(self, task: Task | None) -> None:
        """Watch the expert of a task of the catalogue; None for one that nothing is known of."""
        self._task, self._figures = task, list[float]()

    def add(self, played: Played) -> str | None:
        """Take an episode; the warning, if it is the tenth and they score like random ones."""
        if self._task is None or len(self._figures) == EPISODES:
            return None
        reached = played.episode.about.get("success")
        self._figures.append(float(bool(reached)) if self._task.by_success else played.total)
        return warning(self._task, self._figures) if len(self._figures) == EPISODES else None


def warning(task: Task, stats: list[float]) -> str | None:
    """What to say of an expert's figures, returns or successes of episodes; None if they are those of an expert."""
    random, expert = task.reference(task.random), task.reference(task.expert)
    if random is None or expert is None or expert <= random:
        return None
    mean, better = sum(stats) / len(stats), expert - random
    spread = math.sqrt(random * (1 - random)) if task.by_success else (task.random.std if task.random else 0.0)
    likely = 2 * spread / math.sqrt(len(stats))  # how far random actions come in so few episodes
    if mean >= random + min(max(SHARE * better, likely), better / 2):
        return None
    what = "success" if task.by_success else "return"
    return (
        f"{task.id}: the expert's first {len(stats)} episodes have a mean {what} of {mean:.2f}, as random actions "
        f"have ({random:.2f}), and not as an expert has ({expert:.2f}): does it need statistics or wrappers "
        "(--expert-statistics, --expert-wrappers)?"
    )
