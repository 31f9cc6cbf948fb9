"""Forms that a user's expert may have, and its answers as batches of actions.

An expert has one of FORMS; the first that fits is taken. Signatures decide, before anything is played: an attribute of
the right name that cannot be called, or that takes something else, is not taken for the method.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Dict, Space, Text, Tuple
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from gato_agent.envs.errors import UsageError
from gato_agent.envs.spaces.batch_of_one import only_one

STARTS = {"start", "starts", "episode_start", "episode_starts", "first", "is_first"}  # second arguments of `act`
ACCEPTED = (
    "accepted are an SB3 model or policy, an object with predict(observations, ...) as SB3 has it, with "
    "act(observations, start) or with act(observation), a function of one observation, and a function "
    "(observation_space, action_space) or () that returns one of these; optional are reset(), reset(n), reset(seed) "
    "and seed(seed)"
)


class Misfit(UsageError):
    """An expert that has none of the accepted forms, or whose answer is no action for each environment."""


class Spaces(NamedTuple):
    """Spaces of one environment."""

    observation: Space[Any]
    action: Space[Any]


class Form:
    """A user's expert that is asked for batches of actions."""

    def reset(self) -> None:
        """Forget what was seen."""

    def mask(self, masks: Callable[[], NDArray[np.bool_]] | None) -> None:
        """Give the function that says which actions are allowed, to a form that takes it."""

    def __call__(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Actions for a batch of observations; `start` is bool [n], where an episode begins."""
        raise NotImplementedError


class Predict(Form):
    """`predict(observations[, state][, episode_start][, deterministic]) -> actions` or `(actions, state)`: batches."""

    KEYWORDS = (("state",), ("episode_start", "episode_starts", "mask"), ("deterministic",))

    def __init__(self, expert: Any, spaces: Spaces) -> None:
        """Bind the method; raises Misfit where it is not there, or needs more than these arguments."""
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
        """Pass masks on to a `predict` with an argument of sb3_contrib's name."""
        self._masks = masks if self._takes_masks else None

    def reset(self) -> None:
        """Forget the state."""
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
    """`act(observations, start) -> actions`: batches, as an `envs.loop.Actor` has it."""

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
    """`act(observation) -> action`: one observation as the environment gives it.

    Some of these are written for batches: where the first answer is no action, a batch of one is tried.
    """

    def __init__(self, expert: Any, spaces: Spaces) -> None:
        """Bind the method; raises Misfit where it is not there, or takes something else."""
        self._act, self._spaces = self._function(expert), spaces
        self._single = only_one(spaces.observation, copy=True)
        self._batched: bool | None = None  # not known before the first answer
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
    """`expert(observation) -> action`: a function, or an object that is called like one."""

    def _function(self, expert: Any) -> Any:
        return expert if callable(expert) else None


FORMS: tuple[type[Predict | ActBatch | ActOne], ...] = (ActBatch, Predict, ActOne, Function)


def form_of(expert: Any, spaces: Spaces) -> Form | None:
    """The first form that fits; None where none does."""
    for form in () if inspect.isclass(expert) else FORMS:
        try:
            return form(expert, spaces)
        except Misfit:
            continue
    return None


def takes(function: Any, *args: Any, **kwargs: Any) -> bool:
    """True if a function can be called with these arguments, or does not say what it takes."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # written in C
        return True
    return True


def parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of a function by name; none where it does not say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def method(expert: Any, name: str) -> Any:
    """The method of that name; None where there is none, or an attribute that cannot be called."""
    found = getattr(expert, name, None)
    return found if callable(found) else None


def actions_of(space: Space[Any], answer: Any, n: int) -> Any:
    """Bring an answer into the form of `batch_space(space, n)`; dtypes stay as they are.

    Args:
        space: of single actions.
        answer: arrays, lists, numbers or tensors for a batch; where `n` is 1, also for a single action.
        n: number of environments.

    Raises:
        Misfit: another structure or shape.
    """
    if isinstance(space, Dict | Tuple):
        if isinstance(answer, list) and len(answer) == n and all(isinstance(one, dict | tuple) for one in answer):
            return joined(space, [actions_of(space, one, 1) for one in answer])
        children = dict(space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces))
        try:
            parts = {key: actions_of(child, answer[key], n) for key, child in children.items()}
        except (LookupError, TypeError) as error:
            raise Misfit(f"{type(answer).__name__} where actions are {space}") from error
        return parts if isinstance(space, Dict) else tuple(parts.values())
    if isinstance(space, Text):
        if isinstance(answer, str):
            answer = (answer,)
        if not isinstance(answer, list | tuple | np.ndarray) or len(answer) != n:
            raise Misfit(f"{type(answer).__name__} where actions are {n} texts")
        return tuple(answer)
    return _array(space, answer, n)


def _array(space: Space[Any], answer: Any, n: int) -> NDArray[Any]:
    wanted = (n, *(space.shape or ()))
    try:
        array = np.asarray(answer.detach().cpu() if hasattr(answer, "detach") else answer)
    except (TypeError, ValueError) as error:
        raise Misfit(f"{type(answer).__name__} where actions are {space}") from error
    if array.dtype.kind not in "biuf":
        raise Misfit(f"{type(answer).__name__} where actions are {space}")
    if array.shape != wanted:
        if [side for side in array.shape if side != 1] != [side for side in wanted if side != 1]:
            raise Misfit(f"an array of shape {array.shape} where actions are {n} times {space}")
        array = array.reshape(wanted)
    return array


def joined(space: Space[Any], batches: list[Any]) -> Any:
    """Batches of actions as one."""
    if isinstance(space, Dict):
        return {key: joined(child, [each[key] for each in batches]) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(joined(child, [each[i] for each in batches]) for i, child in enumerate(space.spaces))
    if isinstance(space, Text):
        return tuple(text for each in batches for text in each)
    return np.concatenate(batches)
