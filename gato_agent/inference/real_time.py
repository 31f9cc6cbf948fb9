"""Real-time control: an actor at a fixed rate, with a count of late actions."""

import time
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:  # it also runs at a client, without Gymnasium
    from gato_agent.envs.loop import Actor


class RealTimeActor:
    """Actor that acts `hertz` times a second: early actions wait for their deadline, late ones are counted.

    A deadline comes one period after the last one, or after a late action: the next period is never shortened.

    Args:
        actor: chooses the actions.
        hertz: actions a second; 0 for no limit.

    Attributes:
        actions: number of actions.
        missed: number of late actions. The first one has no deadline.
        worst: longest time from an observation to its action, in seconds.
    """

    def __init__(self, actor: "Actor", hertz: float) -> None:
        self.actions = self.missed = 0
        self.worst = 0.0
        self._actor, self._period = actor, 1 / hertz if hertz else 0.0
        self._deadline = 0.0  # of the next action; 0 before the first one

    def reset(self, num_envs: int) -> None:
        """Reset the actor."""
        self._actor.reset(num_envs)

    def act(self, observation: Any, start: NDArray[Any]) -> Any:
        """Choose actions, then wait for the deadline."""
        began = time.perf_counter()
        action = self._actor.act(observation, start)
        now = time.perf_counter()
        self.actions += 1
        if self._deadline:
            self.worst = max(self.worst, now - began)
            self.missed += bool(self._period) and now > self._deadline
            time.sleep(max(0.0, self._deadline - now) if self._period else 0.0)
        self._deadline = max(self._deadline, now) + self._period
        return action
