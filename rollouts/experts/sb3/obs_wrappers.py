"""Observation wrappers of an expert's training, applied in the expert: the environment is not changed.

They are JSON in the expert's file, such as `{"time_feature": {"horizon": 1000}}`:

    time_feature   horizon        sb3_contrib's TimeFeatureWrapper
    zero_padding   keep, zeros    observations of Ant-v3 without contact forces, from those of Ant-v5
    frame_stack    n              SB3's VecFrameStack, after the others, and after statistics of single frames
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.io.strict_json import parse, typed

Wrappers = dict[str, dict[str, int]]
FRAME_STACK = "frame_stack"
KEY = "observation"  # the entry of goal-conditioned observations that is wrapped
MOST = 2**20  # of any number of a wrapper
FORMS = (
    "write a JSON object of some of "
    '{"frame_stack": {"n": 4}, "time_feature": {"horizon": 1000}, "zero_padding": {"keep": 27, "zeros": 84}}'
)


class Wrapper(Protocol):
    """Transform of one-dimensional observations."""

    def space(self, space: gym.spaces.Box) -> gym.spaces.Box:
        """Space of the result of `apply`."""

    def apply(self, obs: NDArray[Any], t: NDArray[np.int64]) -> NDArray[Any]:
        """Transform a batch [num_envs, n] of observations; `t` [num_envs] counts steps of the episode."""


@dataclass(frozen=True)
class TimeFeature:
    """Append the remaining share of the episode, as sb3_contrib's TimeFeatureWrapper without test mode."""

    horizon: int

    def __post_init__(self) -> None:
        """Check the horizon; raises TypeError if it is invalid."""
        _check_number("horizon", self.horizon, 1)

    def space(self, space: gym.spaces.Box) -> gym.spaces.Box:
        """Space with one more number, from 0 to 1."""
        return _box(space, np.append(space.low, 0), np.append(space.high, 1))

    def apply(self, obs: NDArray[Any], t: NDArray[np.int64]) -> NDArray[Any]:
        """Append a column."""
        return np.column_stack([obs, (1 - t / self.horizon).astype(obs.dtype)])


@dataclass(frozen=True)
class ZeroPadding:
    """Keep the first numbers and append zeros: observations of Ant-v3 without contact forces, from those of Ant-v5."""

    keep: int
    zeros: int

    def __post_init__(self) -> None:
        """Check the numbers; raises TypeError if one is invalid."""
        _check_number("keep", self.keep, 0)
        _check_number("zeros", self.zeros, 0)

    def space(self, space: gym.spaces.Box) -> gym.spaces.Box:
        """Space of `keep` + `zeros` numbers."""
        infinite = np.full(self.zeros, np.inf)
        return _box(space, np.append(space.low[: self.keep], -infinite), np.append(space.high[: self.keep], infinite))

    def apply(self, obs: NDArray[Any], t: NDArray[np.int64]) -> NDArray[Any]:
        """Truncate and append zeros."""
        return np.pad(obs[:, : self.keep], ((0, 0), (0, self.zeros)))


@dataclass(frozen=True)
class FrameStack:
    """Stack the latest observations, the oldest first, with zeros before the first, as SB3's VecFrameStack.

    They are concatenated along the last axis; images with channels first along the first axis.
    """

    n: int

    def __post_init__(self) -> None:
        """Check the number of frames; raises TypeError if it is invalid."""
        _check_number("n", self.n, 1, 1000)

    def space(self, space: gym.Space[Any]) -> gym.Space[Any]:
        """Box, or Dict of Boxes, with `n` times as many numbers; raises GatoError for other spaces."""
        if isinstance(space, gym.spaces.Dict):
            return gym.spaces.Dict([(key, self.space(entry)) for key, entry in space.items()])
        if not isinstance(space, gym.spaces.Box) or not space.shape:
            raise GatoError(f"frames of {space} cannot be stacked")
        axis = _frame_axis(space)
        return _box(space, *(np.concatenate([bound] * self.n, axis) for bound in (space.low, space.high)))

    def apply(self, obs: Any, start: NDArray[np.bool_], space: gym.Space[Any], before: Any) -> Any:
        """Append a batch of observations to the earlier ones.

        Args:
            obs: batch [num_envs, ...] of observations, or a dict of batches.
            start: bool [num_envs], true where an episode begins.
            space: space of single observations.
            before: result of the previous call; None at first.
        """
        if isinstance(space, gym.spaces.Dict):
            return {key: self.apply(obs[key], start, entry, before and before[key]) for key, entry in space.items()}
        axis = _frame_axis(space) % len(space.shape or ()) + 1
        size = obs.shape[axis]
        if before is None:
            before = np.zeros(
                [side * (self.n if place == axis else 1) for place, side in enumerate(obs.shape)], obs.dtype
            )
        before = np.where(start.reshape(-1, *[1] * (obs.ndim - 1)), np.zeros((), obs.dtype), before)
        latest = np.take(before, range(size, self.n * size), axis)
        return np.concatenate([latest, obs], axis)


def _check_number(name: str, value: Any, least: int, most: int = MOST) -> None:
    """Raise TypeError for a value that is no integer of the range."""
    if type(value) is not int or not least <= value <= most:
        raise TypeError(f"{name} is {value!r:.40}, not a number from {least} to {most:,}")


def _frame_axis(space: gym.Space[Any]) -> int:
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

    return 0 if is_image_space(space) and is_image_space_channels_first(space) else -1  # type: ignore[arg-type]


KINDS: dict[str, type[TimeFeature] | type[ZeroPadding]] = {"time_feature": TimeFeature, "zero_padding": ZeroPadding}


class Around:
    """Wrappers in the order of their names, and the current step of each environment.

    Attributes:
        stack: stack of frames, applied after the other wrappers; None without stacking.
    """

    def __init__(self, wrappers: Mapping[str, Mapping[str, int]]) -> None:
        """Make the wrappers by name; raises GatoError if a name or argument is unknown."""
        try:
            self._wrappers: list[Wrapper] = [
                KINDS[name](**wrappers[name]) for name in sorted(wrappers) if name != FRAME_STACK
            ]
            self.stack = FrameStack(**wrappers[FRAME_STACK]) if FRAME_STACK in wrappers else None
        except (KeyError, TypeError) as error:
            named = f"{dict(wrappers)!r:.200} ({error})"
            raise GatoError(f"an expert needs unknown wrappers: {named}") from error
        self._t = np.zeros(0, np.int64)

    def space(self, space: gym.Space[Any]) -> gym.Space[Any]:
        """Space of the policy's observations for observations in `space`.

        Raises:
            GatoError: `space` is neither a one-dimensional Box nor a Dict with such an `observation`.
        """
        if not self._wrappers:
            return space
        if isinstance(space, gym.spaces.Dict) and KEY in space.spaces:
            return gym.spaces.Dict([(key, self.space(entry) if key == KEY else entry) for key, entry in space.items()])
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise GatoError(f"an expert's wrappers need one-dimensional observations, not {space}")
        for wrapper in self._wrappers:
            space = wrapper.space(space)
        return space

    def reset(self, num_envs: int) -> None:
        """Set every environment to the start of an episode."""
        self._t = np.zeros(num_envs, np.int64)

    def apply(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Transform a batch, or a dict of batches; the result is new."""
        if not self._wrappers:
            return observation
        self._t = np.where(start, 0, self._t)
        obs = observation[KEY] if isinstance(observation, dict) else observation
        for wrapper in self._wrappers:
            obs = wrapper.apply(obs, self._t)
        self._t += 1
        return {**observation, KEY: obs} if isinstance(observation, dict) else obs


def parse_wrappers(text: str | None) -> Wrappers | None:
    """Read `--expert-wrappers`, a JSON object; None for None.

    Raises:
        UsageError: no JSON object, or unknown wrappers.
    """
    if text is None:
        return None
    named = f"--expert-wrappers {text!r:.200}"
    try:
        wrappers = parse(text)
    except ValueError as error:
        raise UsageError(f"{named} ({error}): {FORMS}") from error
    return check_wrappers(wrappers, named)


def check_wrappers(value: Any, named: str) -> Wrappers:
    """Check wrappers in JSON data; `named` is their source, for messages.

    Raises:
        UsageError: no wrappers, or unknown ones.
    """
    try:
        wrappers: Wrappers = typed(value, Wrappers, "it")
        Around(wrappers)
    except (ValueError, GatoError) as error:
        raise UsageError(f"{named} ({error}): {FORMS}") from error
    return wrappers


def candidates(env_id: str, horizon: int | None) -> list[Wrappers]:
    """Possible wrappers of an expert's training in an environment; the first are none.

    A zip does not name them, but each changes the size of observations, so that only one fits.
    """
    known: list[Wrappers] = [{}]
    if horizon is not None:
        known.append({"time_feature": {"horizon": horizon}})
    if env_id == "Ant-v5":  # experts of older versions have 84 more numbers that were always zero
        known.append({"zero_padding": {"keep": 27, "zeros": 84}})
    return known


def _box(like: gym.spaces.Box, low: NDArray[Any], high: NDArray[Any]) -> gym.spaces.Box:
    dtype: Any = like.dtype
    return gym.spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
