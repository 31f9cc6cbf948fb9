"""Checks around every environment: values are cast to their spaces, and faults name environment, seed and step."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import gymnasium as gym

from gato_agent.envs.errors import EnvironmentFault, SpaceError, one_line
from gato_agent.envs.ownership import owned
from gato_agent.envs.spaces.leaf_kind import UNREADABLE
from gato_agent.envs.spaces.same_space import plain_space
from gato_agent.envs.spaces.step_results import MOST, brief, flag_of, image_of, reward_of
from gato_agent.envs.spaces.values import validator

LEAST = -MOST
CLOSE_SECONDS = 10.0  # after which a close() that has not ended is left alone
LONG, ENDLESS = 10_000, 100_000  # steps of an episode without a time limit: a warning, and an error
LIMIT = """--env-kwargs '{"max_episode_steps": 1000}'"""
RESET = "reset(self, *, seed=None, options=None) returns (observation, info)"
OLD = "Gymnasium's API, other than that of gym 0.21"
DECLARE = "declare the space that observations have, or wrap it (gymnasium.wrappers.TransformObservation)"
STEP = "step(self, action) returns (observation, reward, terminated, truncated, info)"

_log = logging.getLogger(__name__)


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that casts observations and actions to their spaces' dtypes, and raises EnvironmentFault otherwise.

    A message looks like `CartPole-v1: step 17 of seed 3 raised ValueError: ...`. The rules for values are in
    `spaces/values.py`. Episodes of an environment without a time limit end with a fault after ENDLESS steps.
    """

    def __init__(self, env: gym.Env[Any, Any], env_id: str, copies: bool = True) -> None:
        """Wrap an environment.

        Args:
            env: the environment. It may write into its actions, and return the same array at every step.
            env_id: the environment's name in messages.
            copies: true to copy actions and observations, see ownership.py; false where the loop copies them.
        """
        super().__init__(env)
        self.observation_space = plain_space(env.observation_space)
        self._own: Callable[[Any], Any] = owned if copies else _same
        self._id = env_id
        self._seed: int | None = None
        self._t, self._total = 0, 0.0
        self._valid_obs, self._valid_action = (
            validator(self.observation_space),
            validator(env.action_space, acted=True),
        )
        limited = env.spec is None or env.spec.max_episode_steps is not None
        self._long = float("inf") if limited else LONG
        self._frame: tuple[int, ...] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            EnvironmentFault: if the environment raises, or its first observation is not in its space.
        """
        self._seed, self._t, self._total = seed, 0, 0.0
        try:
            # A vector environment's masked reset leaves an empty dict; all resets get the same options.
            result: Any = self.env.reset(seed=seed, options=options or None)
        except BaseException as error:
            raise self._raised(self._reset_name(), error, RESET) from error
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            what = _kind(result) if not isinstance(result, tuple) or len(result) != 2 else _no_dict(result[1])
            raise self._fault(self._reset_name(), f"returned {what}; {OLD}: {RESET}")
        try:
            return self._own(self._valid_obs(result[0])), result[1]
        except BaseException as error:  # converting a value to an array runs code of its class
            raise self._unsound(self._reset_name(), error) from error

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            EnvironmentFault: if the environment raises, or if the action, observation, reward, `terminated`,
                `truncated` or info is invalid.
        """
        try:
            action = self._valid_action(action)
        except SpaceError as error:
            what = f"has the action {brief(action)}, which is not in {self.action_space!s:.200}: {error}"
            raise self._fault(self._step_name(), what + (f"; {error.remedy}" if error.remedy else "")) from error
        try:
            result: Any = self.env.step(self._own(action))
        except BaseException as error:
            raise self._raised(self._step_name(), error, STEP) from error
        try:
            obs, reward, terminated, truncated, info = result
            obs = self._own(self._valid_obs(obs))
            reward = float(reward) if isinstance(reward, float) else reward_of(reward)
            self._total = total = self._total + reward
            if type(terminated) is not bool or type(truncated) is not bool:
                terminated, truncated = flag_of(terminated, "terminated"), flag_of(truncated, "truncated")
            if not (LEAST < total < MOST and isinstance(info, dict)):
                raise ValueError(self._last_fault(reward, info))
        except BaseException as error:  # converting a value to an array runs code of its class
            if not isinstance(result, tuple) or len(result) != 5:
                raise self._fault(self._step_name(), f"returned {_kind(result)}; {OLD}: {STEP}") from error
            raise self._unsound(self._step_name(), error) from error
        self._t += 1
        if self._t >= self._long:
            self._still_going()
        return obs, reward, terminated, truncated, info

    def render(self) -> Any:
        """Draw the current state: uint8 [height, width, 3] in the render mode rgb_array.

        Returns:
            None if the environment has no render mode.

        Raises:
            EnvironmentFault: if the environment raises, returns no image, or the size of its images changes.
        """
        if self.render_mode is None:  # only one of several environments is shown; Gymnasium would warn on every call
            return None
        where = f"rendering step {self._t} of seed {self._seed}"
        try:
            frame = self.env.render()
        except BaseException as error:
            fault = self._raised(where, error)
            raise EnvironmentFault(f"{fault}: play it with --render none") from error
        if self.render_mode != "rgb_array":
            return frame
        try:
            picture = image_of(frame)
        except ValueError as error:
            raise self._fault(where, f"returned {error}: play it with --render none") from error
        if self._frame is not None and self._frame != picture.shape:
            sizes = " to ".join(f"{width}x{height}" for height, width, _ in (self._frame, picture.shape))
            raise self._fault(where, f"changed the size of images from {sizes}: play it with --render none")
        self._frame = picture.shape
        return picture

    def close(self) -> None:
        """Close the environment; an error or a time-out is logged as a warning, since all episodes are over."""
        try:
            with _at_most(CLOSE_SECONDS):
                self.env.close()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            _log.warning("%s: close() raised %s; the episodes played are unaffected", self._id, one_line(error))

    def _step_name(self) -> str:
        return f"step {self._t} of seed {self._seed}"

    def _reset_name(self) -> str:
        return f"reset with seed {self._seed}"

    def _fault(self, where: str, what: str) -> EnvironmentFault:
        return EnvironmentFault(f"{self._id}: {where} {what}")

    def _raised(self, where: str, error: BaseException, form: str | None = None) -> EnvironmentFault:
        """Build the fault for an exception of the environment; `form` is the method's signature in Gymnasium."""
        if isinstance(error, KeyboardInterrupt):
            raise error
        hint = f"; {OLD}: {form}" if form and _is_misfit(error) else ""
        return self._fault(where, f"raised {one_line(error)}{hint}")

    def _unsound(self, where: str, error: BaseException) -> EnvironmentFault:
        """Build the fault for a returned value that raised an error when it was checked."""
        if isinstance(error, KeyboardInterrupt):
            raise error
        if isinstance(error, SpaceError):
            hint = "" if error.in_no_space else f"; {DECLARE}"
            return self._fault(where, f"returned an observation that is not in its space: {error}{hint}")
        what = str(error) if type(error) is ValueError else f"a value that {UNREADABLE} ({one_line(error)})"
        return self._fault(where, f"returned {what}")

    def _last_fault(self, reward: float, info: Any) -> str:
        """Message for an info that is no dict, or a reward or return that is not finite."""
        if not isinstance(info, dict):
            return _no_dict(info)
        if not -MOST < reward < MOST:
            return f"a reward that is not a finite number: {reward}"
        return f"a reward of {reward:g}, with which the return is beyond {MOST:g}"

    def _still_going(self) -> None:
        """Warn of an episode of LONG steps without a time limit; raise a fault at ENDLESS steps."""
        what = f"is not the last after {self._t:,} steps, and the environment has no time limit: {LIMIT} gives it one"
        if self._t >= ENDLESS:
            raise self._fault(self._step_name(), what)
        self._long = ENDLESS
        _log.warning("%s: %s %s", self._id, self._step_name(), what)


def _same(value: Any) -> Any:
    return value


def _is_misfit(error: BaseException) -> bool:
    """True if a call had the wrong arguments or result; false for an error inside the environment."""
    innermost: TracebackType | None = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = "" if innermost is None else str(innermost.tb_frame.f_globals.get("__name__"))
    return isinstance(error, TypeError | ValueError) and module.startswith(("gymnasium.", "gato_agent.envs."))


def _kind(result: Any) -> str:
    """The result of a reset or step, abbreviated for a message."""
    return f"{len(result)} values" if isinstance(result, tuple) else brief(result)


def _no_dict(info: Any) -> str:
    return f"an info that is not a dict: {brief(info)}"


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer than `seconds`; outside of the main thread, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def time_out(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it did not end within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, time_out)
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining)
        signal.signal(signal.SIGALRM, previous)
