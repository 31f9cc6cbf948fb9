"""BabyAI and MiniGrid: missions in a `Text` space, float rewards, and no printed output."""

import string
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import gymnasium as gym
from gymnasium.spaces import Dict, Text

from gato_agent.envs.tasks.packages import Suite

# BabyAI's longest mission is four times "put the purple ball in front of you next to the yellow door behind you",
# joined by "and" and "after you".
MISSION_LENGTH, MISSION_CHARSET = 321, string.ascii_lowercase + " ,"


class MiniGrid(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper of a level; `success` in the info is true if the mission is fulfilled."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap a level of minigrid, whose observations are a Dict with a `mission`."""
        super().__init__(env)
        if isinstance(env.observation_space, Dict) and "mission" in env.observation_space.spaces:
            entries = env.observation_space.spaces
            self.observation_space = Dict({**entries, "mission": Text(MISSION_LENGTH, charset=MISSION_CHARSET)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the level's printed messages are discarded."""
        with redirect_stdout(StringIO()):
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward), terminated, truncated, {**info, "success": float(reward) > 0}


SUITE = Suite(
    ids=r"(BabyAI|MiniGrid)-(?!RGB/)",
    extra="minigrid",
    packages=("minigrid",),
    distributions=("minigrid",),
    module="minigrid",
    wrap=MiniGrid,
)
