"""Forms of a user's expert: functions and objects that choose actions.

The first of FORMS that fits is used. Signatures decide, before any episode is played: an attribute of the right name
that is not callable, or has other arguments, does not count.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Space, Tuple
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from gato_agent.envs.spaces.batch_of_one import only_one
from gato_agent.rollouts.experts.action_batches import Misfit, actions_of, joined

STARTS = {"start", "starts", "episode_start", "episode_starts", "first", "is_first"}  # second arguments of `act`
ACCEPTED = (
    "accepted are an SB3 model or policy, an object with SB3's predict(observations, ...), with "
    "act(observations, start) or with act(observation), a function of one observation, and a function "
    "(observation_space, action_space) or () that returns one of these; optional are reset(), reset(n), reset(seed), "
    "seed(seed) and a bool `lost`"
)


class Spaces(NamedTuple):
    """Spaces of one environment."""

    observation: Space[Any]
    action: Space[Any]


class Form:
    """Base of the forms: a function from batches of observations to batches of actions."""

    def reset(self) -> None:
        """Clear the recurrent state."""

    def mask(self, masks: Callable[[], NDArray[np.bool_]] | None) -> None:
        """Set the function that returns action masks; ignored by forms without masks."""

    def __call__(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Actions for a batch of observations; `start` is bool [n], true where an episode begins."""
        raise NotImplementedError


class Predict(Form):
    """`predict(observations[, state][, episode_start][, deterministic]) -> actions` or `(actions, state)`: batches."""

    KEYWORDS = (("state",), ("episode_start", "episode_starts", "mask"), ("deterministic",))

    def __init__(self, expert: Any, spaces: Spaces) -> None:
        """Bind the method; raises Misfit if it is missing, or needs other arguments."""
        self._predict = method(expert, "predict")
        known = parameters(self._predict)
        any_name = any(each.kind is each.VAR_KEYWORD for each in known.values())
        names = [next((n for n in group if n in known), group[0] if any_name else "") for group in self.KEYWORDS]
        if self._predict is None or not takes(self._predict, None, **dict.fromkeys(filter(None, names))):
            raise Misfit("predict")
        self._state_name, self._start_name, self._greedy_name = names
        self._pair = not isinstance(spaces.action, Tuple) or bool(self._state_name)
        self._state: Any = None
        self._masks: Callable[[], NDArray[np.bool_]] | None = None
        self._takes_masks = "action_masks" in known

    def mask(self, masks: Callable[[], NDArray[np.bool_]] | None) -> None:
        """Set the masks, if `predict` has the argument `action_masks`, as in sb3_contrib."""
        self._masks = masks if self._takes_masks else None

    def reset(self) -> None:
        """Clear the recurrent state."""
        self._state = None

    def __call__(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Actions of a batch."""
        if start.all() and not self._start_name:
            self._state = None
        arguments = {self._state_name: self._state, self._start_name: start, self._greedy_name: True}
        arguments.pop("", None)
        if self._masks is not None:
            arguments["action_masks"] = self._masks()
        answer = self._predict(observation, **arguments)
        if self._pair and isinstance(answer, tuple) and len(answer) == 2:
            answer, self._state = answer
        return answer


class ActBatch(Form):
    """`act(observations, start) -> actions`: batches, as in `envs.loop.Actor`."""

    def __init__(self, expert: Any, spaces: Spaces) -> None:
        """Bind the method; raises Misfit where it is not there, or takes something else."""
        self._act = method(expert, "act")
        second = [*parameters(self._act).values()][1:2]
        meant = [
            each.name in STARTS or each.name.startswith("_") or each.kind is each.VAR_POSITIONAL for each in second
        ]
        if self._act is None or not takes(self._act, None, None) or not all(meant):
            raise Misfit("act")

    def __call__(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Actions of a batch."""
        return self._act(observation, start)


class ActOne(Form):
    """`act(observation) -> action`: a single observation.

    Some of these are written for batches: if the first result is no action, a batch of one is tried.
    """

    def __init__(self, expert: Any, spaces: Spaces) -> None:
        """Bind the method; raises Misfit where it is not there, or takes something else."""
        self._act, self._spaces = self._function(expert), spaces
        self._single = only_one(spaces.observation, copy=True)
        self._batched: bool | None = None  # None before the first result
        if self._act is None or not takes(self._act, None):
            raise Misfit("act")

    def _function(self, expert: Any) -> Any:
        return method(expert, "act")

    def __call__(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Actions of a batch."""
        if self._batched is not None:
            return self._answer(observation, len(start), self._batched)
        try:
            answer, self._batched = self._answer(observation, len(start), False), False
        except Exception as error:  # noqa: BLE001  # a user's function may raise anything
            try:
                answer, self._batched = self._answer(observation, len(start), True), True
            except Exception:  # noqa: BLE001
                raise error from None  # the first is the one that helps
        return answer

    def _answer(self, observation: Any, n: int, batched: bool) -> Any:
        if batched:
            return actions_of(self._spaces.action, self._act(observation), n)
        if n == 1:
            return actions_of(self._spaces.action, self._act(self._single(observation)), 1)
        each = iterate(batch_space(self._spaces.observation, n), observation)
        return joined(self._spaces.action, [actions_of(self._spaces.action, self._act(one), 1) for one in each])


class Function(ActOne):
    """`expert(observation) -> action`: a function or a callable object."""

    def _function(self, expert: Any) -> Any:
        return expert if callable(expert) else None


FORMS: tuple[type[Predict | ActBatch | ActOne], ...] = (ActBatch, Predict, ActOne, Function)


def form_of(expert: Any, spaces: Spaces) -> Form | None:
    """First form that fits, or None."""
    for form in () if inspect.isclass(expert) else FORMS:
        try:
            return form(expert, spaces)
        except Misfit:
            continue
    return None


def takes(function: Any, *args: Any, **kwargs: Any) -> bool:
    """True if a function can be called with these arguments, or has no signature."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # written in C
        return True
    return True


def parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of a function by name; empty if it has no signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def method(expert: Any, name: str) -> Any:
    """Method of that name; None if it is missing or not callable."""
    attribute = getattr(expert, name, None)
    return attribute if callable(attribute) else None
