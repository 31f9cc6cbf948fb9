"""Meta-World's fifty tasks as Gymnasium ids: `Meta-World/reach-v3` and so on. Importing this registers them.

The package registers its ids with functions that no other process can import, draws goals from the global random
numbers whatever the seed, hides the goal unless told otherwise, and fails one step after the last.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from metaworld.env_dict import ENV_CLS_MAP
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from numpy.typing import NDArray

HORIZON = 500

Observation = NDArray[np.float64]


class MetaWorld(gym.Wrapper[Observation, Any, Observation, Any]):
    """One task, with a goal drawn from the seed and observed; the episode ends when the goal is reached.

    The 39 numbers observed: hand (3), gripper, objects (14, of which zeros where there are fewer), the same of the
    step before, goal (3). Lengths are in metres.
    """

    def __init__(self, name: str, end_at_success: bool = True, **kwargs: Any) -> None:
        """Make the task `name`, such as reach-v3.

        Args:
            name: as the package calls it.
            end_at_success: whether reaching the goal ends the episode, as SPEC scores it; else it takes 500 steps.
            kwargs: render_mode, camera_name, width, height, ... of the package's class.
        """
        env: SawyerXYZEnv = ENV_CLS_MAP[name](**kwargs)
        env.seeded_rand_vec, env._freeze_rand_vec = True, False
        env._partially_observable, env._set_task_called = False, True
        env.__dict__.pop("sawyer_observation_space", None)  # it was worked out with the goal hidden
        super().__init__(env)
        self.observation_space = env.sawyer_observation_space  # type: ignore[assignment] # a Box of float64
        self._end_at_success = end_at_success
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode with a goal and objects placed by the seed."""
        if seed is not None:
            self.unwrapped.seed(seed)  # type: ignore[attr-defined]
        self._steps = 0
        return self.env.reset(options=options)[0], {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one of 500 steps; `success` says whether the goal is reached now."""
        if self._steps == HORIZON:
            raise gym.error.ResetNeeded(f"an episode has {HORIZON} steps: call reset()")
        obs, reward, _, _, info = self.env.step(action)
        self._steps += 1
        success = bool(info["success"])
        # The other entries of `info` are parts of the reward; putting them into batches costs a tenth of the step.
        return obs, float(reward), success and self._end_at_success, self._steps == HORIZON, {"success": success}


def register() -> None:
    """Register all tasks, once."""
    for name in ENV_CLS_MAP:
        gym.register(
            f"Meta-World/{name}", f"{__name__}:{MetaWorld.__name__}", max_episode_steps=HORIZON, kwargs={"name": name}
        )


register()
