"""Example of a custom environment and a Stable-Baselines3 expert for it: a boat docks at one of four corners.

    python examples/docking.py     # trains the expert and writes docking.zip

docs/your-own-environment.md uses it.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from numpy.typing import NDArray

CORNERS = np.array([[-0.8, -0.8], [-0.8, 0.8], [0.8, -0.8], [0.8, 0.8]])
LENGTH = 30


class Docking(gym.Env[dict[str, Any], NDArray[np.int64]]):
    """Environment whose observation is position, drift and dock of a boat; actions push it along both axes."""

    observation_space = Dict({"boat": Box(-1, 1, (2,)), "drift": Box(-1, 1, (2,)), "dock": Discrete(4)})
    action_space = MultiDiscrete([3, 3])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Place the boat at random, without drift."""
        super().reset(seed=seed)
        self.boat = self.np_random.uniform(-1, 1, 2)
        self.drift = np.zeros(2)
        self.dock, self.t = int(self.np_random.integers(4)), 0
        return self._observe(), {}

    def step(self, action: NDArray[np.int64]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Push: 0 and 2 are the two directions of an axis, 1 is neither. The reward is the distance, negative."""
        self.t += 1
        self.drift = np.clip(0.8 * self.drift + 0.05 * (np.asarray(action) - 1), -1, 1)
        self.boat = np.clip(self.boat + self.drift, -1, 1)
        distance = float(np.linalg.norm(self.boat - CORNERS[self.dock]))
        return self._observe(), -distance, False, self.t >= LENGTH, {}

    def _observe(self) -> dict[str, Any]:
        return {"boat": self.boat.astype(np.float32), "drift": self.drift.astype(np.float32), "dock": self.dock}


gym.register("Docking-v0", "docking:Docking")

if __name__ == "__main__":
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO("MultiInputPolicy", make_vec_env(Docking, 8), n_steps=128, ent_coef=0.01, seed=0, device="cpu")
    model.learn(100_000).save("docking.zip")
