"""Real time: an actor that answers at a fixed rate, and how often it was late."""

import time
from typing import Any

from numpy.typing import NDArray

from gato_agent.envs.loop import Actor


class RealTimeActor:
    """Lets another actor act `hertz` times a second: early actions wait for their deadline, late ones are counted.

    A deadline comes one period after the one before, or after a late action: lateness is not made up for by hurry.

    Args:
        actor: who decides.
        hertz: actions a second; 0 for as many as there can be.

    Attributes:
        actions: how many were taken.
        missed: how many of them were late. The first one waits for nothing and cannot be late.
        worst: seconds from an observation to its action, at most.
    """

    def __init__(self, actor: Actor, hertz: float) -> None:
        self.actions = self.missed = 0
        self.worst = 0.0
        self._actor, self._period = actor, 1 / hertz if hertz else 0.0
        self._deadline = 0.0  # of the next action; 0 before the first one

    def reset(self, num_envs: int) -> None:
        """Pass the reset on."""
        self._actor.reset(num_envs)

    def act(self, observation: Any, start: NDArray[Any]) -> Any:
        """Decide, then wait for the deadline."""
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
