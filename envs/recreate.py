"""Environments whose reset does not clear all state, recreated for each episode.

An episode must be a function of its seed, so that it can be collected again. Some environments carry the order of
bodies (Box2D), contacts (Bullet) or the last action (MinAtar, whose actions are sticky) into the next episode.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from gato_agent.envs.tasks.packages import suppress_output


class RecreateOnReset(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that makes the environment again at every reset but the first."""

    def __init__(self, make: Callable[[], gym.Env[Any, Any]]) -> None:
        """Wrap the environment that `make` returns."""
        super().__init__(make())
        self._make, self._used = make, False
        # The spaces of the first environment stay, with their random state.
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self._seeds = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; without a seed, the next one of a sequence that the latest seed started."""
        if self._used:
            self.env.close()
            self.env = self._make()
        self._used = True
        if seed is None:
            seed = int(self._seeds.integers(2**31))
        else:
            self._seeds = np.random.default_rng(seed)
        with suppress_output():  # Bullet prints its arguments
            return self.env.reset(seed=seed, options=options)
