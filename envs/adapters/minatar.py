"""MinAtar's games, `MinAtar/Breakout-v1` and so on."""

from typing import Any

import gymnasium as gym
import numpy as np

from gato_agent.envs.tasks.packages import Suite

CELL = 32  # pixels of a frame for each of the 10 x 10 cells


class Enlarged(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that renders uint8 [320, 320, 3] instead of one float pixel per cell."""

    def render(self) -> Any:
        """Draw the current state."""
        frame = self.env.render()
        if self.render_mode != "rgb_array":
            return frame
        return np.rint(255 * np.asarray(frame)).astype(np.uint8).repeat(CELL, 0).repeat(CELL, 1)


def register() -> None:
    """Register all games; later calls do nothing."""
    from minatar.gym import register_envs

    if "MinAtar/Breakout-v1" not in gym.registry:  # a second call would warn of every id
        register_envs()


SUITE = Suite(
    ids=r"MinAtar/",
    extra="minatar",
    packages=("minatar",),
    distributions=("minatar",),
    module="minatar",
    register=register,
    wrap=Enlarged,
    stateful_reset=r"MinAtar/",
)
