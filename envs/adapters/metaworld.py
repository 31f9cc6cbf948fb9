"""Meta-World's fifty tasks, `Meta-World/reach-v3` and so on.

The package's own ids have entry points that no other process can import; their goals are drawn from NumPy's global
random numbers and are not observed; and a step after the last raises.
"""

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.tasks.packages import Suite, ids_of

HORIZON = 500

Observation = NDArray[np.float64]


class MetaWorld(gym.Wrapper[Observation, Any, Observation, Any]):
    """One task, whose goal is drawn from the seed and observed; the episode ends when the goal is reached.

    Observations are 39 numbers: hand (3), gripper (1), objects (14, zero-padded), the same of the previous step (18),
    goal (3). Lengths are in metres.
    """

    def __init__(self, name: str, end_at_success: bool = True, **kwargs: Any) -> None:
        """Make the task `name`, such as reach-v3.

        Args:
            name: name in the package.
            end_at_success: true if reaching the goal ends the episode, false for episodes of 500 steps.
            kwargs: render_mode, camera_name, width, height, ... of the package's class.
        """
        from metaworld.env_dict import ENV_CLS_MAP

        env = ENV_CLS_MAP[name](**kwargs)
        env.seeded_rand_vec, env._freeze_rand_vec = True, False
        env._partially_observable, env._set_task_called = False, True
        env.__dict__.pop("sawyer_observation_space", None)  # computed with the goal hidden
        super().__init__(env)
        self.observation_space = env.sawyer_observation_space  # type: ignore[assignment] # a Box of float64
        self._end_at_success = end_at_success
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode whose goal and objects are placed by the seed."""
        if seed is not None:
            self.unwrapped.seed(seed)  # type: ignore[attr-defined]
        self._steps = 0
        return self.env.reset(options=options)[0], {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one of at most 500 steps; `success` in the info is true if the goal is reached."""
        if self._steps == HORIZON:
            raise gym.error.ResetNeeded(f"an episode has {HORIZON} steps: call reset()")
        obs, reward, _, _, info = self.env.step(action)
        self._steps += 1
        success = bool(info["success"])
        # The other entries of `info` are parts of the reward, and are left out to save time.
        return obs, float(reward), success and self._end_at_success, self._steps == HORIZON, {"success": success}


@cache
def register() -> None:
    """Register all tasks; later calls do nothing."""
    for env_id in ids_of("metaworld"):
        name = env_id.removeprefix("Meta-World/")
        gym.register(env_id, f"{__name__}:{MetaWorld.__name__}", max_episode_steps=HORIZON, kwargs={"name": name})


SUITE = Suite(
    ids=r"Meta-World/",
    extra="metaworld",
    packages=("metaworld",),
    distributions=("metaworld", "mujoco"),
    module="metaworld",
    register=register,
    own=True,
)
