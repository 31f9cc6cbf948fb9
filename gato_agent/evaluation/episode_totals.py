"""Return, length and success of running episodes."""

from gato_agent.envs.loop import Step
from gato_agent.envs.spaces.step_results import success_of
from gato_agent.envs.tasks.task import Task, find
from gato_agent.evaluation.task_score import Outcome


class EpisodeTotals:
    """Outcomes so far of the episodes in a stream of steps.

    An episode succeeds if any of its steps reports success. In tasks of the catalogue that know success, an episode
    without such a report has failed.

    Args:
        task: id of the environment.
    """

    def __init__(self, task: str) -> None:
        self._first = False if (find(task) or Task(task, "")).success is not None else None
        self._running: dict[int, Outcome] = {}

    def add(self, step: Step) -> Outcome:
        """Add a step; returns the outcome of its episode so far, which is final if the step ends the episode."""
        before = self._running.get(step.seed, Outcome(step.seed, 0.0, 0, self._first))
        success = before.success
        if (reported := success_of(step.info)) is not None:
            success = bool(success) or reported
        outcome = Outcome(step.seed, before.total + step.reward, step.t + 1, success, step.terminated)
        self._running[step.seed] = outcome
        if step.done:
            del self._running[step.seed]
        return outcome
