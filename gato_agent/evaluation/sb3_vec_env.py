"""Vector environment in Stable-Baselines3's interface, for observations and actions of any nested space."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from gato_agent.envs.checked_env import CheckedEnv
from gato_agent.envs.errors import UsageError
from gato_agent.envs.spaces.batch_of_one import each_one
from gato_agent.envs.spaces.flatten import batch, stack
from gato_agent.envs.spaces.same_space import plain_space


class SB3VecEnv(VecEnv):
    """Environments of Gymnasium as a `VecEnv`, stepped one after the other and reset when an episode ends.

    Stable-Baselines3's own `DummyVecEnv` takes neither nested spaces, nor Dict and Tuple actions, nor strings.

        evaluate_policy(agent, SB3VecEnv(gym.make("BabyAI-GoToLocal-v0")), n_eval_episodes=10)

    Each is in a `CheckedEnv`, so that it may write into its actions and return the same array at every step.

    Args:
        envs: one environment, or several that are different objects with equal spaces.

    Raises:
        UsageError: no environment, or one twice.
        SpaceError: a space that is not supported.
    """

    def __init__(self, *envs: gym.Env[Any, Any]) -> None:
        if not envs or len({id(env.unwrapped) for env in envs}) < len(envs):
            raise UsageError("SB3VecEnv takes one environment or more, each of them once: make one for each place")
        self.envs = [env if isinstance(env, CheckedEnv) else CheckedEnv(env, _name(env)) for env in envs]
        self.metadata = envs[0].metadata
        super().__init__(len(envs), plain_space(envs[0].observation_space), envs[0].action_space)

    def reset(self) -> Any:
        """Begin an episode in each environment; returns a batch of observations."""
        observations = []
        for index, env in enumerate(self.envs):
            options = {"options": self._options[index]} if self._options[index] else {}
            observation, self.reset_infos[index] = env.reset(seed=self._seeds[index], **options)
            observations.append(observation)
        self._reset_seeds()
        self._reset_options()
        return self._batch(observations)

    def step_async(self, actions: Any) -> None:
        """Take a batch of actions, in the form of `VectorEnv.action_space`."""
        self._actions = each_one(self.action_space, actions, self.num_envs)

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step every environment: observations, rewards, ends of episodes, and infos."""
        observations, rewards, dones, infos = [], np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool), []
        for index, (env, action) in enumerate(zip(self.envs, self._actions, strict=True)):
            observation, reward, terminated, truncated, info = env.step(action)
            rewards[index], dones[index] = reward, terminated or truncated
            info = {**info, "TimeLimit.truncated": truncated and not terminated}
            if dones[index]:
                info["terminal_observation"] = observation
                observation, self.reset_infos[index] = env.reset()
            observations.append(observation)
            infos.append(deepcopy(info))
        return self._batch(observations), rewards, dones, infos

    def _batch(self, observations: Sequence[Any]) -> Any:
        return batch(self.observation_space, stack(self.observation_space, observations))

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Rendered images of the environments."""
        return [env.render() for env in self.envs]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Attribute of each environment."""
        return [self.envs[index].get_wrapper_attr(attr_name) for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment."""
        for index in self._get_indices(indices):
            self.envs[index].set_wrapper_attr(attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Results of a method of each environment."""
        return [method(*args, **kwargs) for method in self.get_attr(method_name, indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """True for each environment that is in such a wrapper."""
        from stable_baselines3.common.env_util import is_wrapped

        return [is_wrapped(self.envs[index], wrapper_class) for index in self._get_indices(indices)]


def _name(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__
