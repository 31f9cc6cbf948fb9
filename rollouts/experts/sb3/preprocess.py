"""Preprocessing between an environment and an SB3 policy.

    observation ──▶ counted from 0, flat ──▶ wrappers ──▶ normalised, frames stacked ──▶ policy ──▶ action, plus start

SB3 observes leaves and Dicts of leaves: any other nesting becomes a Dict of its leaves by their paths. It counts all
discrete values from 0 and ignores the `start` of their space. Statistics are of single frames or of stacked ones; their
shape decides whether normalisation or stacking comes first.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Space, Tuple
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.envs.ownership import owned
from gato_agent.envs.spaces.paths import pointer
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.sb3.obs_wrappers import Around
from gato_agent.rollouts.experts.sb3.vecnormalize import Normalizer


class Preprocess:
    """Transforms of observations before a policy and of actions after it.

    Attributes:
        spaces: spaces of the policy.
    """

    def __init__(
        self, spaces: Spaces, wrappers: Mapping[str, Mapping[str, int]], normalize: Normalizer | None, name: str
    ) -> None:
        """Compute the policy's spaces; raises GatoError naming the expert if the statistics do not fit."""
        self._outer, self._normalize = spaces, normalize
        self._around = Around(wrappers)
        self._frame = self._around.space(flat(from_zero(spaces.observation)))
        stack = self._stack = self._around.stack
        seen = stack.space(self._frame) if stack else self._frame
        self.spaces = Spaces(seen, from_zero(spaces.action))
        self._normalize_first = not misfits(normalize, self._frame)
        if not self._normalize_first and (wrong := misfits(normalize, seen)):
            raise GatoError(f"expert {name} does not fit: {wrong}; are they another expert's?")
        self._frames: Any = None

    def reset(self, num_envs: int) -> None:
        """Set every environment to the start of an episode."""
        self._around.reset(num_envs)
        self._frames = None

    def observe(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Transform a batch of observations; `start` is bool [num_envs], true where an episode begins."""
        outer = self._outer.observation
        observation = self._around.apply(flat_value(outer, moved(outer, observation, -1)), start)
        if self._normalize is not None and self._normalize_first:
            observation = self._normalize(observation)
        if self._stack is not None:
            self._frames = self._stack.apply(observation, start, self._frame, self._frames)
            observation = owned(self._frames)  # a user's policy may write into it
        if self._normalize is not None and not self._normalize_first:
            observation = self._normalize(observation)
        return observation

    def action(self, actions: Any) -> Any:
        """Transform the policy's actions to the environment's."""
        return moved(self._outer.action, actions, 1)


class AsSB3Expects(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper whose discrete values count from 0, and whose observations are leaves or a Dict of leaves."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Wrap an environment of any spaces."""
        super().__init__(env)
        self.observation_space, self.action_space = flat(from_zero(env.observation_space)), from_zero(env.action_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._observed(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take one step."""
        obs, *rest = self.env.step(moved(self.env.action_space, action, 1))
        return self._observed(obs), *rest

    def _observed(self, obs: Any) -> Any:
        space = self.env.observation_space
        return flat_value(space, moved(space, obs, -1))


def flat(space: Space[Any]) -> Space[Any]:
    """Dict of the leaves of a nested space by their paths, such as `goal/0`; the same object for what SB3 observes."""
    parts = [(path, leaf) for path, leaf, _ in _parts(space, None)]
    return Dict(parts) if _is_nested(space) else space  # a list keeps the order


def flat_value(space: Space[Any], value: Any) -> Any:
    """Batch or value of `space` in the form of `flat(space)`."""
    return {path: part for path, _, part in _parts(space, value)} if _is_nested(space) else value


def _is_nested(space: Space[Any]) -> bool:
    """True if a space is a Tuple, or a Dict with a Dict or Tuple in it."""
    inner = space.spaces.values() if isinstance(space, Dict) else ()
    return isinstance(space, Tuple) or any(isinstance(child, Dict | Tuple) for child in inner)


def _parts(space: Space[Any], value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[str, Space[Any], Any]]:
    """Leaves of a space with their paths and their parts of a value."""
    if not isinstance(space, Dict | Tuple):
        yield pointer(keys), space, value
        return
    children = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
    for key, child in children:
        yield from _parts(child, None if value is None else value[key], (*keys, key))


def from_zero(space: Space[Any]) -> Space[Any]:
    """Space whose discrete values count from 0; the same object if they do."""
    if isinstance(space, Discrete) and space.start != 0:
        return Discrete(space.n)
    if isinstance(space, MultiDiscrete) and np.any(space.start != 0):
        return MultiDiscrete(space.nvec)
    if isinstance(space, Dict):
        return Dict([(key, from_zero(child)) for key, child in space.spaces.items()])  # a list keeps the order
    if isinstance(space, Tuple):
        return Tuple([from_zero(child) for child in space.spaces])
    return space


def moved(space: Space[Any], batch: Any, sign: int) -> Any:
    """Batch or value of `space` with the starts of its discrete parts added, or subtracted with sign -1."""
    if isinstance(space, Discrete | MultiDiscrete) and np.any(space.start != 0):
        return np.asarray(batch) + np.asarray(sign * space.start, np.int64)
    if isinstance(space, Dict):
        return {key: moved(child, batch[key], sign) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(moved(child, batch[i], sign) for i, child in enumerate(space.spaces))
    return batch


def starts_elsewhere(space: Any) -> bool:
    """True if discrete values of a space do not start at 0."""
    return isinstance(space, Space) and from_zero(space) != space


def misfits(normalize: Normalizer | None, space: gym.Space[Any]) -> str:
    """Message on statistics that do not fit a space of observations; empty if they fit."""
    shapes = {key: entry.shape for key, entry in space.items()} if isinstance(space, Dict) else {"": space.shape}
    for key, mean in normalize.mean.items() if normalize else ():
        if shapes.get(key) != mean.shape:
            has = shapes.get(key, "no such entry")
            return (f"the observation statistics beside it have shape {mean.shape}, and observations"
                    f"{key and ' ' + key} {has}")  # fmt: skip
    return ""
