"""Five BabyAI levels with images as observations, `BabyAI-RGB/GoToLocal-v0` and so on."""

from functools import cache
from typing import Any

import gymnasium as gym

from gato_agent.envs.adapters.minigrid import MiniGrid
from gato_agent.envs.tasks.packages import Suite

LEVELS = ("GoToRedBall", "GoToLocal", "PickupLoc", "OpenDoor", "PutNextLocal")
TILE = 8  # pixels per cell: the 7 x 7 cells in view make 56 x 56 pixels


def rgb(level: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make a level whose `image` is the agent's view as uint8 [56, 56, 3]; mission and direction are unchanged."""
    from minigrid.wrappers import RGBImgPartialObsWrapper

    env = gym.make(f"BabyAI-{level}-v0", render_mode=render_mode, disable_env_checker=True)
    return RGBImgPartialObsWrapper(env, tile_size=TILE)  # type: ignore[no-untyped-call]


@cache
def register() -> None:
    """Register all levels; later calls do nothing."""
    for level in LEVELS:
        gym.register(f"BabyAI-RGB/{level}-v0", f"{__name__}:{rgb.__name__}", kwargs={"level": level})


SUITE = Suite(
    ids=r"BabyAI-RGB/",
    extra="minigrid",
    packages=("minigrid",),
    distributions=("minigrid",),
    module="minigrid",
    register=register,
    own=True,
    wrap=MiniGrid,
)
