"""Five BabyAI levels seen as images, `BabyAI-RGB/GoToLocal-v0` and so on. Importing this registers them."""

from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401 (registers the levels)
from minigrid.wrappers import RGBImgPartialObsWrapper

LEVELS = ("GoToRedBall", "GoToLocal", "PickupLoc", "OpenDoor", "PutNextLocal")
TILE = 8  # pixels a cell: the 7 x 7 cells in view make 56 x 56 pixels


def rgb(level: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make a level whose `image` is the agent's view as uint8 [56, 56, 3]; the mission and direction stay."""
    env = gym.make(f"BabyAI-{level}-v0", render_mode=render_mode, disable_env_checker=True)
    return RGBImgPartialObsWrapper(env, tile_size=TILE)  # type: ignore[no-untyped-call]


def register() -> None:
    """Register all levels."""
    for level in LEVELS:
        gym.register(f"BabyAI-RGB/{level}-v0", f"{__name__}:{rgb.__name__}", kwargs={"level": level})


register()
