"""Several environments side by side, whose infos stay their own."""

from typing import Any

from gymnasium.vector import AutoresetMode, SyncVectorEnv

INFOS = "infos"  # key of the only entry: env index -> that environment's info


class SeparateInfos(SyncVectorEnv[Any, Any]):
    """Environments that are stepped in turn, and reset by whoever steps them.

    Gymnasium joins infos key by key into arrays, which fails for values that change their shape or type. Here they are
    handed out as they are: `{"infos": {0: info of environment 0, ...}}`.
    """

    def __init__(self, env_fns: Any) -> None:
        """Make one environment with each function; raises RuntimeError where their spaces differ."""
        super().__init__(env_fns, autoreset_mode=AutoresetMode.DISABLED)

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        vector_infos.setdefault(INFOS, {})[env_num] = env_info
        return vector_infos
