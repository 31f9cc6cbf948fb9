"""BabyAI and MiniGrid: missions as text that JSON can describe, rewards that are all floats, and silence."""

import string
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import gymnasium as gym
from gymnasium.spaces import Dict, Text

# What BabyAI's grammar can make: two times two of "put the purple ball in front of you next to the yellow door behind
# you", joined by "and" and "after you". The longest in 300 episodes of MiniBossLevel has 166 characters.
MISSION_LENGTH, MISSION_CHARSET = 321, string.ascii_lowercase + " ,"


class MiniGrid(gym.Wrapper[Any, Any, Any, Any]):
    """One level; `success` in the info says whether the mission is fulfilled."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap a level of minigrid's, whose observations are a Dict with a `mission`."""
        super().__init__(env)
        if isinstance(env.observation_space, Dict) and "mission" in env.observation_space.spaces:
            entries = env.observation_space.spaces
            self.observation_space = Dict({**entries, "mission": Text(MISSION_LENGTH, charset=MISSION_CHARSET)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the level prints each mission that it rejects."""
        with redirect_stdout(StringIO()):
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward), terminated, truncated, {**info, "success": float(reward) > 0}
