"""Around every environment: what it raises or returns wrongly is said with its id, seed and step."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from gato_agent.envs.errors import EnvironmentFault, one_line
from gato_agent.envs.ownership import owned


class Guard(gym.Wrapper[Any, Any, Any, Any]):
    """Pass everything through unchanged, except exceptions, malformed results and values that are not finite.

    Those become one `EnvironmentFault` each, such as `CartPole-v1: step 17 of seed 3 raised ValueError: ...`.
    A finite value outside its bounds passes: many environments do this, and tokens clip it.
    """

    def __init__(self, env: gym.Env[Any, Any], env_id: str, copies: bool = True) -> None:
        """Wrap an environment.

        Args:
            env: it may write into the action that it is given, and return the same array at every step.
            env_id: its name in messages.
            copies: true to pass actions and observations as copies, see ownership.py; false where the loop does so.
        """
        super().__init__(env)
        self._own: Callable[[Any], Any] = owned if copies else _same
        self._id = env_id
        self._seed: int | None = None
        self._t = 0
        self._sound = _checker(env.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            EnvironmentFault: if the environment raises, or its first observation is not sound.
        """
        self._seed, self._t = seed, 0
        try:
            # A vector environment's masked reset leaves an empty dict; every reset is to look like the first.
            obs, info = self.env.reset(seed=seed, options=options or None)
        except Exception as error:
            raise self._raised(self._reset_name(), error) from error
        self._check(obs, 0.0, info, self._reset_name)
        return self._own(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            EnvironmentFault: if the environment raises, or its observation or reward is not sound.
        """
        try:
            obs, reward, terminated, truncated, info = self.env.step(self._own(action))
        except Exception as error:
            raise self._raised(self._step_name(), error) from error
        self._check(obs, reward, info, self._step_name)
        self._t += 1
        return self._own(obs), reward, terminated, truncated, info  # type: ignore[return-value]  # reward: SupportsFloat

    def render(self) -> Any:
        """Draw the current state, a copy; None where the environment was made without a render mode.

        Raises:
            EnvironmentFault: if the environment raises.
        """
        if self.render_mode is None:  # a lane beside the one that is shown; Gymnasium would warn on every call
            return None
        try:
            return owned(self.env.render())
        except Exception as error:
            raise self._raised(f"rendering {self._step_name()}", error) from error

    def _step_name(self) -> str:
        return f"step {self._t} of seed {self._seed}"

    def _reset_name(self) -> str:
        return f"reset with seed {self._seed}"

    def _raised(self, where: str, error: Exception) -> EnvironmentFault:
        return EnvironmentFault(f"{self._id}: {where} raised {one_line(error)}")

    def _check(self, obs: Any, reward: Any, info: Any, where: Callable[[], str]) -> None:
        try:
            if self._sound(obs) and math.isfinite(reward) and isinstance(info, dict):
                return
        except (AttributeError, LookupError, TypeError, ValueError):
            pass  # an unusual but perhaps sound value, such as a list for an array: look closely
        for fault in _faults(self.env.observation_space, obs, reward, info):
            raise EnvironmentFault(f"{self._id}: {where()} returned {fault}")


def _same(value: Any) -> Any:
    return value


def _checker(space: gym.Space[Any]) -> Callable[[Any], bool]:
    """Build the quick test of an observation: true, or else false or an exception where it needs a close look."""
    if isinstance(space, gym.spaces.Dict):
        entries = [(key, _checker(entry)) for key, entry in space.spaces.items()]
        return lambda value: all(check(value[key]) for key, check in entries)
    if isinstance(space, gym.spaces.Tuple):
        checks = [_checker(entry) for entry in space.spaces]
        return lambda value: all(check(item) for check, item in zip(checks, value, strict=True))
    shape, dtype = space.shape, space.dtype
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        # 0 * x is 0 unless x is NaN or infinite: one silent product takes half the time of np.isfinite(x).all().
        zeros = np.zeros(space.shape, space.dtype)
        return lambda value: value.shape == shape and bool(np.vdot(zeros, value) == 0.0)
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        return lambda value: value.shape == shape and value.dtype == dtype
    return lambda value: True


def _faults(space: gym.Space[Any], obs: Any, reward: Any, info: Any) -> Iterator[str]:
    """Say what is wrong with the result of a step, as the end of a sentence."""
    yield from _observation_faults(space, obs, "observation")
    try:
        finite = math.isfinite(reward)
    except TypeError:
        finite = False
    if not finite:
        yield f"a reward that is not a finite number: {reward!r}"
    if not isinstance(info, dict):
        yield f"an info that is not a dict: {info!r}"


def _observation_faults(space: gym.Space[Any], value: Any, name: str) -> Iterator[str]:
    if isinstance(space, gym.spaces.Dict):
        for key, entry in space.spaces.items():
            if isinstance(value, Mapping) and key in value:
                yield from _observation_faults(entry, value[key], f"{name}[{key!r}]")
            else:
                yield f"an {name} without its entry {key!r}"
    elif isinstance(space, gym.spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            yield f"an {name} that is not a tuple of {len(space.spaces)} entries"
        else:
            for i, (entry, item) in enumerate(zip(space.spaces, value, strict=True)):
                yield from _observation_faults(entry, item, f"{name}[{i}]")
    elif isinstance(space, gym.spaces.Box | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        yield from _array_faults(space, value, name)


def _array_faults(space: gym.Space[Any], value: Any, name: str) -> Iterator[str]:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        yield f"an {name} that is not an array: {type(value).__name__}"
        return
    if array.shape != space.shape:
        yield f"an {name} of shape {array.shape} where its space says {space.shape}"
    elif not np.can_cast(array.dtype, space.dtype, "same_kind"):  # type: ignore[arg-type]
        yield f"an {name} of {array.dtype} where its space says {space.dtype}"
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        yield f"an {name} that is not finite: {array[index]} at index {list(index)}"
