"""A vector environment without autoreset, with one info per environment."""

from collections.abc import Callable
from copy import deepcopy
from functools import cached_property
from typing import Any

from gymnasium import Env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate

from gato_agent.envs.errors import EnvironmentFault, one_line
from gato_agent.envs.ownership import INFO_DEPTH, owned
from gato_agent.envs.spaces.batch_of_one import each_one

INFOS = "infos"  # key of the only entry: env index -> that environment's info


class SeparateInfos(SyncVectorEnv[Any, Any]):
    """Environments that are stepped one after the other, without autoreset.

    Gymnasium joins infos key by key into arrays, which fails for values that change their shape or type. Here each
    environment has its own info, a copy: `{"infos": {0: info of environment 0, ...}}`.
    """

    def __init__(self, env_fns: Any, copy: bool = True) -> None:
        """Make one environment with each function; raises RuntimeError if their spaces differ.

        Args:
            env_fns: functions without arguments that each return an environment.
            copy: true to return observations that later steps do not change.
        """
        super().__init__(env_fns, copy=copy, autoreset_mode=AutoresetMode.DISABLED)
        self._masks: list[Any] = [None] * self.num_envs  # in the info of each environment's latest reset or step

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every environment: batches of observations, rewards, terminated, truncated, and separate infos."""
        infos: dict[str, Any] = {}
        acted = each_one(self.single_action_space, actions, self.num_envs)
        for i, (env, action) in enumerate(zip(self.envs, acted, strict=True)):
            self._env_obs[i], self._rewards[i], self._terminations[i], self._truncations[i], info = env.step(action)
            self._add_info(infos, info, i)
        self._observations = concatenate(self.single_observation_space, self._env_obs, self._observations)
        ends = self._terminations.copy(), self._truncations.copy()
        return deepcopy(self._observations) if self.copy else self._observations, self._rewards.copy(), *ends, infos

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        self.keep_mask(env_num, env_info)
        vector_infos.setdefault(INFOS, {})[env_num] = owned(env_info, INFO_DEPTH)
        return vector_infos

    def keep_mask(self, env_num: int, env_info: dict[str, Any]) -> None:
        """Store a copy of the action mask in an environment's info, or None, for `action_masks`."""
        self._masks[env_num] = owned(env_info["action_mask"]) if "action_mask" in env_info else None

    def action_masks(self) -> list[Any]:
        """Action mask of each environment, or None.

        A mask is `info["action_mask"]` of the latest reset or step, or else the result of the environment's method
        `action_masks()`, as in sb3-contrib.

        Raises:
            EnvironmentFault: the method raised.
        """
        return [
            mask if mask is not None or method is None else _result(method)
            for mask, method in zip(self._masks, self._mask_methods, strict=True)
        ]

    @cached_property
    def _mask_methods(self) -> list[Callable[[], Any] | None]:
        return [_method(env, "action_masks") for env in self.envs]


def _result(method: Callable[[], Any]) -> Any:
    try:
        return method()
    except Exception as error:
        raise EnvironmentFault(f"the environment's action_masks() raised {one_line(error)}") from error


def _method(env: Env[Any, Any], name: str) -> Callable[[], Any] | None:
    """A method of an environment or of one of its wrappers, or None."""
    if not env.has_wrapper_attr(name):
        return None
    method = env.get_wrapper_attr(name)
    return method if callable(method) else None
