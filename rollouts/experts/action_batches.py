"""Conversion of the results of a user's expert to batches of actions."""

from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Tuple
from numpy.typing import NDArray

from gato_agent.envs.errors import UsageError
from gato_agent.envs.spaces.batch_of_one import is_object


class Misfit(UsageError):
    """Error of an expert of no accepted form, or whose result is no action for each environment."""


def actions_of(space: Space[Any], answer: Any, n: int) -> Any:
    """Convert an expert's result to a batch of `batch_space(space, n)`; dtypes are unchanged.

    Args:
        space: space of single actions.
        answer: arrays, lists, numbers or tensors for a batch; if `n` is 1, also for a single action.
        n: number of environments.

    Raises:
        Misfit: the result has another structure or shape.
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
    if is_object(space):
        if isinstance(answer, str):
            answer = (answer,)
        if not isinstance(answer, list | tuple | np.ndarray) or len(answer) != n:
            raise Misfit(f"{type(answer).__name__} where actions are {n} texts")
        return tuple(answer)
    return _array(space, answer, n)


def _array(space: Space[Any], answer: Any, n: int) -> NDArray[Any]:
    wanted = (n, *(space.shape or ()))
    try:
        array = np.asarray(
            [_of_tensor(each) for each in answer] if isinstance(answer, list | tuple) else _of_tensor(answer)
        )
    except (TypeError, ValueError) as error:
        raise Misfit(f"{type(answer).__name__} where actions are {space}") from error
    if array.dtype.kind not in "biuf":
        raise Misfit(f"{type(answer).__name__} where actions are {space}")
    if array.shape != wanted:
        if [side for side in array.shape if side != 1] != [side for side in wanted if side != 1]:
            raise Misfit(f"an array of shape {array.shape} where actions are {n} times {space}")
        array = array.reshape(wanted)
    return array


def _of_tensor(value: Any) -> Any:
    """A tensor of torch as an array, of bfloat16 as float32; other values unchanged."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def joined(space: Space[Any], batches: list[Any]) -> Any:
    """Concatenate batches of actions."""
    if isinstance(space, Dict):
        return {key: joined(child, [each[key] for each in batches]) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(joined(child, [each[i] for each in batches]) for i, child in enumerate(space.spaces))
    if is_object(space):
        return tuple(text for each in batches for text in each)
    return np.concatenate(batches)
