"""MinAtar's games under the ids of its own package, which registers them only when asked. Importing this asks."""

from typing import Any

import gymnasium as gym
import numpy as np
from minatar.gym import register_envs

CELL = 32  # pixels of a frame for each of the 10 x 10 cells


class Enlarged(gym.Wrapper[Any, Any, Any, Any]):
    """Frames as uint8 [320, 320, 3], where the package draws one float pixel a cell."""

    def render(self) -> Any:
        """Draw the current state."""
        frame = self.env.render()
        if self.render_mode != "rgb_array":
            return frame
        return np.rint(255 * np.asarray(frame)).astype(np.uint8).repeat(CELL, 0).repeat(CELL, 1)


if "MinAtar/Breakout-v1" not in gym.registry:  # asked twice, it warns of every id
    register_envs()
