"""Making environments with the calls of Gymnasium."""

from typing import Any

import gymnasium as gym

from gato_agent.envs.make import make as make_env
from gato_agent.envs.make import make_vector
from gato_agent.envs.vector import SeparateInfos

__all__ = ["make", "make_vec"]


def make(env_id: str, *, render_mode: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make an environment as `gymnasium.make` does, after importing the package that registers its id.

    Values are checked and cast to their spaces. Observed strings are in a Text space, with which
    Stable-Baselines3's `evaluate_policy(agent, env)` runs.

    Args:
        env_id: an id of the catalogue, any other registered id, or `module:Env-v0` to import `module` first.
        render_mode: one of the environment's render modes.
        kwargs: arguments of the environment; `max_episode_steps` changes the time limit.

    Raises:
        UsageError: unknown id, missing package, unsuitable `kwargs`; CannotRender for an unsuitable render mode.
        GatoError: `module` raised.
        EnvironmentFault: the constructor raised, or a space is missing.
    """
    return make_env(env_id, render_mode=render_mode, env_kwargs=kwargs)


def make_vec(env_id: str, num_envs: int = 1, *, render_mode: str | None = None, **kwargs: Any) -> SeparateInfos:
    """Make a vector environment without autoreset: reset ended ones by `reset(options={"reset_mask": mask})`.

    `gato_agent.envs.loop.steps` runs an agent or an expert in it.

    Args:
        env_id: as for `make`.
        num_envs: number of environments, at least 1; only the first is rendered.
        render_mode: as for `make`.
        kwargs: as for `make`.

    Raises:
        UsageError: as for `make`, or fewer than one environment.
        EnvironmentFault: as for `make`, or the environments differ in their spaces.
    """
    return make_vector(env_id, num_envs, env_kwargs=kwargs, render_mode=render_mode)
