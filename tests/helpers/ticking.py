"""An environment whose picture shows its step, for tests of videos."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text

LETTERS = "abcdefghijklmnopqrstuvwxyz "


class Ticking(gym.Env[Any, Any]):
    """Episode of `length` steps of reward 0.25; the picture is 10 brighter at each step, and the last step succeeds."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 40}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(self, length: int = 4, mission: bool = False, render_mode: str | None = None) -> None:
        self.render_mode, self.length, self.mission = render_mode, length, mission
        number = Box(0, 255, (1,))
        self.observation_space = Dict(number=number, mission=Text(400, charset=LETTERS)) if mission else number
        self.action_space = Discrete(2)
        self.t = 0

    def _observation(self) -> Any:
        number = np.float32([self.t])
        return {"number": number, "mission": "tick " * self.length} if self.mission else number

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        done = self.t == self.length
        return self._observation(), 0.25, done, False, {"is_success": done}

    def render(self) -> Any:
        return np.full((200, 400, 3), 10 * self.t, np.uint8)


gym.register("Ticking-v0", "tests.helpers.ticking:Ticking")
