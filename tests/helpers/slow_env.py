"""An environment whose episodes take a while, for tests of interrupts."""

import time
from typing import Any

import gymnasium as gym

from tests.helpers.testing_env import TestingEnv


class SlowEnv(TestingEnv):
    """Episode of 5 steps of 0.05 seconds."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(length=5, render_mode=render_mode)

    def step(self, action: Any) -> Any:
        time.sleep(0.05)
        return super().step(action)


gym.register("Slow-v0", SlowEnv)
