"""An environment for workers, which import it by name, with a fault in the episode of one seed.

collect(CollectConfig(env=("tests.helpers.faulty_env:Worker-v0",), env_kwargs='{"fault": "kill", "seed": 3}'))
"""

import errno
import os
import signal
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Text

from tests.helpers.testing_env import TestingEnv

WORKER, OTHER = f"{__name__}:Worker-v0", f"{__name__}:Other-v0"
RESETS = [0]  # of all environments in this process


class WorkerEnv(TestingEnv):
    """Environment of 5 steps that raises, hangs, returns NaN, exits or is killed at step 2 of the episode `seed`.

    With the fault `leak` the fifth reset of a process fails; `odd` raises in odd episodes.
    """

    def __init__(self, fault: str = "", seed: int = -1, pause: float = 0.0, render_mode: str | None = None) -> None:
        super().__init__(length=5, render_mode=render_mode)
        self.fault, self.fault_seed, self.pause = fault, seed, pause

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        RESETS[0] += 1
        if (self.fault == "leak" and RESETS[0] > 4) or (self.fault == "odd" and (seed or 0) % 2):
            raise OSError(errno.EMFILE, "Too many open files")
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        time.sleep(self.pause)
        obs, *rest = super().step(action)
        if self.t == 3 and self.fault_seed in (self.seed, -2):
            if self.fault == "raise":
                raise RuntimeError("the wheel came off")
            if self.fault == "hang":
                time.sleep(1000)
            if self.fault == "nan":
                obs = np.array([np.nan, 0.0])
            if self.fault == "sys.exit":
                sys.exit(7)
            if self.fault == "close":
                os.closerange(3, 256)
            if self.fault == "exit":
                os._exit(7)
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
        return (obs, *rest)


class GridEnv(TestingEnv):
    """Environment that observes a random image and a random text."""

    def __init__(self, render_mode: str | None = None) -> None:
        space = Dict(image=Box(0, 255, (16, 16, 3), np.uint8), mission=Text(30))
        super().__init__(length=20, observation_space=space, render_mode=render_mode)

    def observe(self) -> Any:
        picture = self.np_random.integers(256, size=(16, 16, 3), dtype=np.uint8)
        return {"image": picture, "mission": f"go to ball {self.np_random.integers(1000)}"}


gym.register("Grid-v0", entry_point="tests.helpers.faulty_env:GridEnv")
gym.register("Worker-v0", entry_point="tests.helpers.faulty_env:WorkerEnv")
gym.register("Other-v0", entry_point="tests.helpers.faulty_env:WorkerEnv")
