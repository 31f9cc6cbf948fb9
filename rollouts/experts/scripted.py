"""Scripted experts: Meta-World's policies, BabyAI's bot, and value iteration for tabular environments.

All are deterministic functions of the episode's state.
"""

import hashlib
import inspect
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.rollouts.experts.expert import Expert

META_WORLD = "Meta-World/"
DISCOUNT = 0.99


def find_scripted(env_id: str, envs: Sequence[gym.Env[Any, Any]]) -> Expert:
    """Find the scripted expert of an environment.

    Args:
        env_id: id of the environment.
        envs: environments, whose state some experts read; empty if it is not accessible.

    Raises:
        UsageError: there is none.
    """
    if env_id.startswith(META_WORLD):
        return MetaWorldExpert(env_id.removeprefix(META_WORLD))
    inside: Any = envs[0].unwrapped if envs else None
    if "minigrid" in sys.modules:  # otherwise no environment is of minigrid
        from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

        from gato_agent.rollouts.experts.babyai_bot import BabyAIExpert

        if isinstance(inside, RoomGridLevel):
            return BabyAIExpert(env_id, envs)
    if isinstance(getattr(inside, "P", None), dict):
        return PlannedExpert(env_id, [env.unwrapped for env in envs])
    raise UsageError(
        f"no scripted expert for {env_id}: there are experts for Meta-World/..., BabyAI-..., and environments with a "
        "table of transitions (unwrapped.P); train one with --expert train"
    )


class MetaWorldExpert:
    """Meta-World's policy for one of its tasks, a function of the 39 observed numbers."""

    def __init__(self, task: str) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        if task not in ENV_POLICY_MAP:
            raise UsageError(f"Meta-World has no policy for {task}; it has: {', '.join(sorted(ENV_POLICY_MAP))}")
        policy: Any = ENV_POLICY_MAP[task]  # its declared type is abstract
        code = inspect.getsource(inspect.getmodule(policy) or policy).encode()
        name = f"metaworld {policy.__name__}"
        self.provenance = {"kind": "scripted", "source": name, "sha256": hashlib.sha256(code).hexdigest()}
        self._policy = policy()

    def seed(self, seed: int) -> None:
        """Nothing to do."""

    def reset(self, num_envs: int) -> None:
        """Nothing to do."""

    def act(self, observation: NDArray[np.float64], start: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions [num_envs, 4], clipped to -1..1."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")  # about actions beyond -1..1
            # Copies, because two of the policies write into their observations.
            actions = np.array([self._policy.get_action(obs.copy()) for obs in observation], np.float32)
        return actions.clip(-1, 1)


class PlannedExpert:
    """Optimal actions of a tabular environment, from value iteration on its transitions."""

    def __init__(self, env_id: str, envs: Sequence[Any]) -> None:
        tables = [env.P for env in envs]
        try:
            first = _plan(tables[0])
            plans = [first if table == tables[0] else _plan(table) for table in tables]
        except (LookupError, TypeError, ValueError) as error:
            raise GatoError(f"{env_id}: its table of transitions cannot be read ({one_line(error)})") from error
        self._plans = np.stack(plans)
        plan = self._plans[0].tobytes()
        self.provenance = {"kind": "planned", "source": "value iteration", "sha256": hashlib.sha256(plan).hexdigest()}

    def seed(self, seed: int) -> None:
        """Nothing to do."""

    def reset(self, num_envs: int) -> None:
        """Nothing to do."""

    def act(self, observation: NDArray[np.int64], start: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions [num_envs] for states [num_envs]."""
        return self._plans[np.arange(len(observation)), observation]


def _plan(table: dict[int, dict[int, list[tuple[float, int, float, bool]]]]) -> NDArray[np.int64]:
    """Optimal action of each state, [S], from state -> action -> (probability, next state, reward, terminated)."""
    states, actions = len(table), len(table[0])
    step = np.zeros((states, actions))
    to = np.zeros((states, actions, states))
    for state, choices in table.items():
        for action, outcomes in choices.items():
            for probability, following, reward, ends in outcomes:
                step[state, action] += probability * reward
                to[state, action, following] += probability * (not ends)
    value, change = np.zeros(states), np.inf
    while change > 1e-12:
        better = (step + DISCOUNT * to @ value).max(1)
        change, value = np.abs(better - value).max(), better
    # Rounded, because equal values may differ in the last digits; the first of the best actions is taken.
    plan: NDArray[np.int64] = np.round(step + DISCOUNT * to @ value, 9).argmax(1)
    return plan
