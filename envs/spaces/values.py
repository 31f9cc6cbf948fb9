"""Validation of observations and actions: values are cast to their spaces' dtypes, or refused.

    leaf                             cast to the dtype   in observations              in actions
    Box of floats                    rounded             any number (tokens clip)     within the bounds
    Box of 1,024 integers or more    if exact            any integer (tokens clip)    within the bounds
    all other integers               if exact            within the bounds            within the bounds
    Text                             -                   any characters               characters of the charset

Numbers that are not finite and texts longer than `max_length` are invalid. Environments, experts, imported data sets,
`data verify` and the tokenizer apply the same rules, so that a value valid in one of them is valid in all.
"""

from collections.abc import Callable
from typing import Any

from gymnasium.spaces import Dict, Space, Tuple
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Columns, Leaf, leaves, space_error
from gato_agent.envs.spaces.leaf_kind import refuse
from gato_agent.envs.spaces.leaf_table import find_leaf_kind
from gato_agent.envs.spaces.paths import pointer
from gato_agent.envs.spaces.step_results import brief


class LeafValidator:
    """Validator of one leaf.

    Args:
        leaf: the leaf; messages name its path.
        acted: true for actions, false for observations.
        clip: true to clip values to their bounds, unless they are choices.
    """

    def __init__(self, leaf: Leaf, acted: bool, clip: bool = False) -> None:
        self._leaf, self._kind, self._acted = leaf, leaf.kind, acted
        self._bounds = self._kind.bounds(leaf.space, acted)
        self._clip = self._bounds if clip and not self._kind.choices(leaf.space) else None

    def column(self, values: Any) -> NDArray[Any]:
        """Validated values as an array [B, *leaf shape] of the column's dtype (Text: object [B]).

        Raises:
            SpaceError: a value is invalid; the message names path, row and element.
        """
        path, space = self._leaf
        column = self._kind.column(space, path, values)
        if self._clip is not None:
            column = column.clip(*self._clip)
        self._kind.check(space, path, column, self._acted, self._bounds)
        return column

    def refuse(self, column: NDArray[Any], at: list[int]) -> None:
        """Raise SpaceError for the element at these indices; the first index is the row."""
        refuse(self._leaf.path, column, at, self._bounds, clipped=not self._kind.choices(self._leaf.space))

    def value(self) -> Callable[[Any], Any]:
        """Build the function that validates a single value: it returns the value, cast if need be.

        The function raises SpaceError as `column` does.
        """
        space, column, row = self._leaf.space, self.column, self._kind.row
        sound = self._kind.sound(space, self._acted, self._bounds)

        def validate(value: Any) -> Any:
            try:
                if sound(value):
                    return value
            except (AttributeError, TypeError, ValueError):
                pass  # an unusual but perhaps valid value, such as a list for an array
            return row(space, column([value]), 0)

        return validate


def validator(space: Space[Any], acted: bool = False, keys: tuple[str | int, ...] = ()) -> Callable[[Any], Any]:
    """Build the function that validates a value of a nested space and casts it to the space's dtypes.

    Args:
        space: any nesting of supported spaces; values of other spaces are returned unchanged.
        acted: true for actions, false for observations.
        keys: keys and indices that lead to the space in a larger one, for errors.

    Returns:
        A function of a value. Arrays of its result are those that were passed, or new ones. It raises SpaceError for
        an invalid value; the message names path and element.
    """
    if isinstance(space, Dict):
        entries = [(key, validator(entry, acted, (*keys, key))) for key, entry in space.spaces.items()]

        def validate_dict(value: Any) -> dict[str, Any]:
            try:
                return {key: validate(value[key]) for key, validate in entries}
            except (IndexError, KeyError, TypeError):
                raise space_error(pointer(keys), f"{brief(value)} without the entries {list(space.spaces)}") from None

        return validate_dict
    if isinstance(space, Tuple):
        parts = [validator(entry, acted, (*keys, index)) for index, entry in enumerate(space.spaces)]

        def validate_tuple(value: Any) -> tuple[Any, ...]:
            if not isinstance(value, (tuple, list)) or len(value) != len(parts):
                raise space_error(pointer(keys), f"{brief(value)} instead of a tuple of {len(parts)} entries")
            return tuple([validate(item) for validate, item in zip(parts, value, strict=True)])

        return validate_tuple
    if find_leaf_kind(space) is not None:
        return LeafValidator(Leaf(pointer(keys), space), acted).value()
    return lambda value: value


def column_validator(space: Space[Any], acted: bool = False, clip: bool = False) -> Callable[[Columns], Columns]:
    """Build the function that validates columns of many values; it raises SpaceError as `validator` does.

    Args:
        space: any nesting of supported spaces.
        acted: true for actions, false for observations.
        clip: true to clip values to the bounds of a Box.
    """
    validators = {leaf.path: LeafValidator(leaf, acted, clip) for leaf in leaves(space)}

    def validate(columns: Columns) -> Columns:
        if missing := validators.keys() - columns.keys():
            raise space_error(min(missing), "missing")
        return {path: leaf.column(columns[path]) for path, leaf in validators.items()}

    return validate
