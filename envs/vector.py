"""Several environments side by side, whose infos stay their own."""

from copy import deepcopy
from typing import Any

from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate

from gato_agent.envs.ownership import INFO_DEPTH, owned
from gato_agent.envs.single import each_one

INFOS = "infos"  # key of the only entry: env index -> that environment's info


class SeparateInfos(SyncVectorEnv[Any, Any]):
    """Environments that are stepped in turn, and reset by whoever steps them.

    Gymnasium joins infos key by key into arrays, which fails for values that change their shape or type. Here they are
    handed out by environment, copies: `{"infos": {0: info of environment 0, ...}}`.
    """

    def __init__(self, env_fns: Any, copy: bool = True) -> None:
        """Make one environment with each function; raises RuntimeError where their spaces differ.

        Args:
            env_fns: functions without arguments.
            copy: true for observations that later steps do not change.
        """
        super().__init__(env_fns, copy=copy, autoreset_mode=AutoresetMode.DISABLED)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every environment; all that is returned is a batch, but for the infos."""
        infos: dict[str, Any] = {}
        acted = each_one(self.single_action_space, actions, self.num_envs)
        for i, (env, action) in enumerate(zip(self.envs, acted, strict=True)):
            self._env_obs[i], self._rewards[i], self._terminations[i], self._truncations[i], info = env.step(action)
            self._add_info(infos, info, i)
        self._observations = concatenate(self.single_observation_space, self._env_obs, self._observations)
        ends = self._terminations.copy(), self._truncations.copy()
        return deepcopy(self._observations) if self.copy else self._observations, self._rewards.copy(), *ends, infos

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        vector_infos.setdefault(INFOS, {})[env_num] = owned(env_info, INFO_DEPTH)
        return vector_infos
