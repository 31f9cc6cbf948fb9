"""Environments that remember earlier episodes, made anew for each."""

import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from gato_agent.envs.tasks.packages import suppress_output

# What an episode holds must hang on its seed alone, or nothing collected could be collected again. These keep the
# order of bodies (Box2D), contacts (Bullet) or the last action (MinAtar, whose actions stick) from one to the next.
STATEFUL_RESET = re.compile(r"BipedalWalker|\w+BulletEnv-|MinAtar/")


class RecreateOnReset(gym.Wrapper[Any, Any, Any, Any]):
    """Make the environment again at every reset but the first."""

    def __init__(self, make: Callable[[], gym.Env[Any, Any]]) -> None:
        """Wrap what `make` returns."""
        super().__init__(make())
        self._make, self._used = make, False
        # The first one's spaces stay, with their random state.
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self._seeds = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; without a seed, one that follows from the last seed given."""
        if self._used:
            self.env.close()
            self.env = self._make()
        self._used = True
        if seed is None:
            seed = int(self._seeds.integers(2**31))
        else:
            self._seeds = np.random.default_rng(seed)
        with suppress_output():  # Bullet says how it was started
            return self.env.reset(seed=seed, options=options)
