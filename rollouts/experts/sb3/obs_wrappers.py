"""Wrappers that experts were trained behind, applied to their observations: the environment itself stays as it is.

Plain data say which, as in `{"time_feature": {"horizon": 1000}}`; they are kept in the expert's file:

    time_feature   horizon        sb3_contrib's TimeFeatureWrapper
    zero_padding   keep, zeros    an Ant-v3 without contact forces, out of an Ant-v5 with them
    frame_stack    n              SB3's VecFrameStack, after the others; and after statistics that are of one frame
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
    """Changes one-dimensional observations."""

    def space(self, space: gym.spaces.Box) -> gym.spaces.Box:
        """The space of what `apply` returns."""

    def apply(self, obs: NDArray[Any], t: NDArray[np.int64]) -> NDArray[Any]:
        """Change a batch [num_envs, n] of observations, each `t` [num_envs] steps after its episode's start."""


@dataclass(frozen=True)
class TimeFeature:
    """Appends the share of the episode that is left, as sb3_contrib's TimeFeatureWrapper does out of test mode."""

    horizon: int

    def __post_init__(self) -> None:
        """Check the number; raises TypeError for what is none."""
        _check_number("horizon", self.horizon, 1)

    def space(self, space: gym.spaces.Box) -> gym.spaces.Box:
        """One number more, from 0 to 1."""
        return _box(space, np.append(space.low, 0), np.append(space.high, 1))

    def apply(self, obs: NDArray[Any], t: NDArray[np.int64]) -> NDArray[Any]:
        """Append a column."""
        return np.column_stack([obs, (1 - t / self.horizon).astype(obs.dtype)])


@dataclass(frozen=True)
class ZeroPadding:
    """Keeps the first numbers and appends zeros: an Ant-v3 without contact forces, out of an Ant-v5 with them."""

    keep: int
    zeros: int

    def __post_init__(self) -> None:
        """Check the numbers; raises TypeError for what is none."""
        _check_number("keep", self.keep, 0)
        _check_number("zeros", self.zeros, 0)

    def space(self, space: gym.spaces.Box) -> gym.spaces.Box:
        """`keep` + `zeros` numbers."""
        infinite = np.full(self.zeros, np.inf)
        return _box(space, np.append(space.low[: self.keep], -infinite), np.append(space.high[: self.keep], infinite))

    def apply(self, obs: NDArray[Any], t: NDArray[np.int64]) -> NDArray[Any]:
        """Cut off, and append zeros."""
        return np.pad(obs[:, : self.keep], ((0, 0), (0, self.zeros)))


@dataclass(frozen=True)
class FrameStack:
    """Shows the latest observations side by side, the oldest first and zeros before the first, as SB3's VecFrameStack.

    They are joined along the last axis, in images with their channels first along the first.
    """

    n: int

    def __post_init__(self) -> None:
        """Check the number; raises TypeError for what is none."""
        _check_number("n", self.n, 1, 1000)

    def space(self, space: gym.Space[Any]) -> gym.Space[Any]:
        """Box, or Dict of Boxes, with `n` times as many numbers; raises GatoError for another."""
        if isinstance(space, gym.spaces.Dict):
            return gym.spaces.Dict([(key, self.space(entry)) for key, entry in space.items()])
        if not isinstance(space, gym.spaces.Box) or not space.shape:
            raise GatoError(f"frames of {space} cannot be stacked")
        axis = _frame_axis(space)
        return _box(space, *(np.concatenate([bound] * self.n, axis) for bound in (space.low, space.high)))

    def apply(self, obs: Any, start: NDArray[np.bool_], space: gym.Space[Any], before: Any) -> Any:
        """Append a batch of observations to those before.

        Args:
            obs: batch [num_envs, ...] of observations, or a dict of batches.
            start: bool [num_envs], where an episode begins.
            space: of single observations.
            before: what the last call returned; None at first.
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
        kept = np.take(before, range(size, self.n * size), axis)
        return np.concatenate([kept, obs], axis)


def _check_number(name: str, value: Any, least: int, most: int = MOST) -> None:
    """Raise TypeError for what is no number of a wrapper."""
    if type(value) is not int or not least <= value <= most:
        raise TypeError(f"{name} is {value!r:.40}, not a number from {least} to {most:,}")


def _frame_axis(space: gym.Space[Any]) -> int:
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

    return 0 if is_image_space(space) and is_image_space_channels_first(space) else -1  # type: ignore[arg-type]


KINDS: dict[str, type[TimeFeature] | type[ZeroPadding]] = {"time_feature": TimeFeature, "zero_padding": ZeroPadding}


class Around:
    """Wrappers in the order of their names, and the step that each environment is at.

    Attributes:
        stack: frames that are to be stacked after all else; None where there are none.
    """

    def __init__(self, wrappers: Mapping[str, Mapping[str, int]]) -> None:
        """Find the wrappers by name; raises GatoError if one is unknown, or an argument of it."""
        try:
            self._wrappers: list[Wrapper] = [
                KINDS[name](**wrappers[name]) for name in sorted(wrappers) if name != FRAME_STACK
            ]
            self.stack = FrameStack(**wrappers[FRAME_STACK]) if FRAME_STACK in wrappers else None
        except (KeyError, TypeError) as error:
            asked = f"{dict(wrappers)!r:.200} ({error})"
            raise GatoError(f"an expert asks for wrappers that are not known here: {asked}") from error
        self._t = np.zeros(0, np.int64)

    def space(self, space: gym.Space[Any]) -> gym.Space[Any]:
        """What the expert's policy sees where the environment's observations are in `space`.

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
        """Every environment is at the start of an episode."""
        self._t = np.zeros(num_envs, np.int64)

    def apply(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Wrap a batch, or a dict of batches; a new one, the old is not changed."""
        if not self._wrappers:
            return observation
        self._t = np.where(start, 0, self._t)
        obs = observation[KEY] if isinstance(observation, dict) else observation
        for wrapper in self._wrappers:
            obs = wrapper.apply(obs, self._t)
        self._t += 1
        return {**observation, KEY: obs} if isinstance(observation, dict) else obs


def parse_wrappers(text: str | None) -> Wrappers | None:
    """Read `--expert-wrappers`, a JSON object; None where it is not given.

    Raises:
        UsageError: it is none, or names wrappers that are not known.
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
    """Wrappers out of plain data, which `named` describes in the message.

    Raises:
        UsageError: they are none, or not known.
    """
    try:
        wrappers: Wrappers = typed(value, Wrappers, "it")
        Around(wrappers)
    except (ValueError, GatoError) as error:
        raise UsageError(f"{named} ({error}): {FORMS}") from error
    return wrappers


def candidates(env_id: str, horizon: int | None) -> list[Wrappers]:
    """Wrappers that an expert for this environment may have been trained behind; the first is none.

    A zip does not say it. But each of these changes the number of observations, so that only one fits.
    """
    known: list[Wrappers] = [{}]
    if horizon is not None:
        known.append({"time_feature": {"horizon": horizon}})
    if env_id == "Ant-v5":  # experts from before v5 have 84 numbers more that were always zero
        known.append({"zero_padding": {"keep": 27, "zeros": 84}})
    return known


def _box(like: gym.spaces.Box, low: NDArray[Any], high: NDArray[Any]) -> gym.spaces.Box:
    dtype: Any = like.dtype
    return gym.spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
