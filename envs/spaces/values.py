"""Validation of observations, actions, rewards and end flags: values are cast to their spaces' dtypes, or refused.

    leaf                             cast to the dtype   in observations              in actions
    Box of floats                    rounded             any number (tokens clip)     within the bounds
    Box of 1,024 integers or more    if exact            any integer (tokens clip)    within the bounds
    all other integers               if exact            within the bounds            within the bounds
    Text                             -                   any characters               characters of the charset

Numbers that are not finite and texts longer than `max_length` are invalid. Environments, experts, imported data sets,
`data verify` and the tokenizer apply the same rules, so that a value valid in one of them is valid in all.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Columns, Leaf, as_column, leaves, space_error
from gato_agent.envs.spaces.space_json import pointer

LEAVES = (Box, Discrete, MultiBinary, MultiDiscrete, Text)
CHOICES = 1024  # an integer Box of fewer values is categorical: each value has its own token
FEW = 32  # up to so many elements are compared faster as Python numbers
SUCCESS = ("success", "is_success")  # keys of infos that report success
MOST = 1e100  # largest magnitude of a return, so that the variance of returns is finite

Bounds = tuple[NDArray[Any], NDArray[Any]]


class LeafValidator:
    """Validator of one leaf.

    Args:
        leaf: the leaf; messages name its path.
        acted: true for actions, false for observations.
        clip: true to clip values to the bounds of a Box.
    """

    def __init__(self, leaf: Leaf, acted: bool, clip: bool = False) -> None:
        self._leaf, self._acted, self._clip = leaf, acted, clip and isinstance(leaf.space, Box)
        self._bounds = None if isinstance(leaf.space, Text) else enforced(leaf.space, acted)

    def column(self, values: Any) -> NDArray[Any]:
        """Validated values as an array [B, *leaf shape] of the leaf's dtype (Text: object [B]).

        Raises:
            SpaceError: a value is invalid; the message names path, row and element.
        """
        column = as_column(self._leaf, values)
        if isinstance(self._leaf.space, Text):
            for row, text in enumerate(column):
                if fault := _text_fault(self._leaf.space, text, self._acted):
                    raise space_error(self._leaf.path, fault, row)
            return column
        if self._clip and self._bounds is not None:
            column = column.clip(*self._bounds)
        wrong = self._wrong(column)
        if wrong.any():
            self.refuse(column, np.argwhere(wrong)[0].tolist())
        return column

    def _wrong(self, column: NDArray[Any]) -> NDArray[np.bool_]:
        """Mask of the invalid elements, bool in the shape of the column."""
        wrong = ~np.isfinite(column) if column.dtype.kind == "f" else np.zeros(column.shape, np.bool_)
        if self._bounds is not None:
            wrong |= (column < self._bounds[0]) | (column > self._bounds[1])
        return wrong

    def refuse(self, column: NDArray[Any], at: list[int]) -> None:
        """Raise SpaceError for the element at these indices; the first index is the row."""
        row, *index = at
        value, where = column[tuple(at)], f"element {index}" if index else "value"
        what = "not a finite number"
        if np.isfinite(value) and self._bounds is not None:
            low, high = (bound[tuple(index)] for bound in self._bounds)
            what = f"beyond its bounds {low} to {high}"
        raise space_error(self._leaf.path, f"{where} is {value}, {what}", row)

    def value(self) -> Callable[[Any], Any]:
        """Build the function that validates a single value: it returns the value, cast if need be.

        The function raises SpaceError as `column` does.
        """
        sound, column = _sound(self._leaf.space, self._acted, self._bounds), self.column
        scalar = isinstance(self._leaf.space, (Discrete, Text))

        def validate(value: Any) -> Any:
            try:
                if sound(value):
                    return value
            except (AttributeError, TypeError, ValueError):
                pass  # an unusual but perhaps valid value, such as a list for an array
            valid = column([value])
            return valid[0] if scalar else valid[0, ...]

        return validate


def enforced(space: Space[Any], acted: bool) -> Bounds | None:
    """Least and largest valid value of each element; None if the dtype has no other values."""
    if isinstance(space, Box):
        low, high = space.low, space.high
        if space.dtype.kind == "f":
            return (low, high) if acted and (np.isfinite(low) | np.isfinite(high)).any() else None
        least, most = (0, 1) if space.dtype.kind == "b" else (np.iinfo(space.dtype).min, np.iinfo(space.dtype).max)
        if not acted:
            wide = _span(low, high) >= CHOICES
            low, high = np.where(wide, least, low).astype(low.dtype), np.where(wide, most, high).astype(low.dtype)
        return None if (low == least).all() and (high == most).all() else (low, high)
    if isinstance(space, MultiBinary):
        return np.zeros(space.shape, np.int8), np.ones(space.shape, np.int8)
    assert isinstance(space, (Discrete, MultiDiscrete))
    low, n = np.asarray(space.start), np.asarray(space.n if isinstance(space, Discrete) else space.nvec)
    with np.errstate(over="ignore"):  # `check_values` refuses a space with values beyond its dtype
        return low, low + (n - 1).astype(low.dtype)


def check_values(leaf: Leaf) -> None:
    """Raise SpaceError for a Discrete or MultiDiscrete whose largest value is beyond its dtype."""
    space = leaf.space
    if isinstance(space, (Discrete, MultiDiscrete)):
        low, n = np.ravel(space.start), np.ravel(space.n if isinstance(space, Discrete) else space.nvec)
        if (low > np.iinfo(low.dtype).max - (n - 1)).any():
            raise space_error(leaf.path, f"{space} has values beyond {low.dtype}: give it a wider dtype")


def _span(low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.uint64]:
    """Largest minus smallest value, exact for any integer dtype."""
    return high.astype(np.uint64) - low.astype(np.uint64)


def _sound(space: Space[Any], acted: bool, bounds: Bounds | None) -> Callable[[Any], bool]:
    """Build a fast test: true if a value is valid without a cast; false or an exception if it must be validated."""
    if isinstance(space, Text):
        if acted:
            return lambda value: type(value) is str and space.contains(value)
        most = space.max_length
        return lambda value: type(value) is str and len(value) <= most and value.isascii()
    if isinstance(space, Discrete):
        integer, first, end = (int, np.integer), int(space.start), int(space.start) + int(space.n)
        return lambda value: bool(isinstance(value, integer) and first <= value < end)
    shape, dtype = space.shape, space.dtype
    if bounds is None and isinstance(space, Box) and dtype is not None and dtype.kind == "f":
        # 0 * x is 0 unless x is NaN or infinite; the product is faster than np.isfinite(x).all().
        zeros = np.zeros(space.shape, dtype)
        return lambda value: bool(value.shape == shape and value.dtype == dtype and np.vdot(zeros, value) == 0.0)
    if bounds is None:
        return lambda value: bool(value.shape == shape and value.dtype == dtype)
    (low, high), size, count = bounds, bounds[0].size, np.count_nonzero
    if shape is not None and len(shape) == 1 and 0 < size <= FEW and (low == low[0]).all() and (high == high[0]).all():
        least, most = low[0].item(), high[0].item()
        return lambda value: bool(
            value.shape == shape
            and value.dtype == dtype
            and not [number for number in value.tolist() if not least <= number <= most]  # `not <=` finds NaN
        )
    return lambda value: bool(
        value.shape == shape and value.dtype == dtype and count((value >= low) & (value <= high)) == size
    )


def _text_fault(space: Text, text: str, acted: bool) -> str | None:
    """Description of what makes a text invalid; None if it is valid."""
    if len(text) > space.max_length:
        return f"a text of {len(text)} characters, beyond its bound of {space.max_length}: {text!a:.80}"
    if acted and not space.contains(text):
        return f"{text!a:.80} is not in {space!a:.200}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text!a:.80} has characters that are not in Unicode"
    return None


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
    if isinstance(space, LEAVES):
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


def reward_of(value: Any) -> float:
    """Convert a reward, a number or an array of one number, to a float.

    Raises:
        ValueError: no number, or one that is not finite or beyond MOST.
    """
    if not isinstance(value, (float, int, np.floating, np.integer)):
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise ValueError(f"a reward that is not one number: {brief(value)}")
        value = array.item()
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        number = np.inf
    if not -MOST < number < MOST:
        raise ValueError(f"a reward that is not a finite number: {brief(value)}")
    return number


def flag_of(value: Any, name: str) -> bool:
    """Convert `terminated` or `truncated`, a bool, a number, None or an array of one of them, to a bool.

    Raises:
        ValueError: something else, such as one flag for each of many agents.
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return bool(value)
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() != array.item():
        raise ValueError(f"{name} that is not one truth value: {brief(value)}")
    return bool(array.item())


def success_of(info: Mapping[Any, Any]) -> bool | None:
    """Success flag of an info, under either of its usual keys; None if there is none."""
    reported = [info[key] for key in SUCCESS if key in info]
    return any(map(_is_true, reported)) if reported else None


def _is_true(value: Any) -> bool:
    try:
        return bool(np.any(value))
    except Exception:  # noqa: BLE001  # an info may contain anything, such as an object without a truth value
        return False


def brief(value: Any) -> str:
    """Representation of a value for a message, at most 80 characters; a large array by its shape and dtype."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"an array of shape {value.shape} of {value.dtype}"
    text = " ".join(f"{value!r}".split())
    kind = f" ({type(value).__name__} of shape {value.shape})" if isinstance(value, np.ndarray) else ""
    return (text if len(text) <= 80 else f"{text[:77]}...") + kind
