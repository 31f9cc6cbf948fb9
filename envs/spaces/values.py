"""Observations, actions, rewards and ends that this project can hold: one rule for all that makes or reads them.

    leaf                              cast to the space's dtype     beyond the bounds
    Box of floats                     rounded                       kept if observed (tokens clip it), refused if acted
    Box of 1,024 integers or more     where nothing is lost         likewise
    all other whole numbers           where nothing is lost         refused: each value has a token of its own
    Text                              -                             any characters if observed, the charset's if acted

Numbers that are not finite are refused, and texts longer than `max_length`. Environments, experts, imported data sets,
`data verify` and the tokenizer apply this rule, so what one of them takes all of them take.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Columns, Leaf, as_column, leaves, space_error
from gato_agent.envs.spaces.space_json import pointer

LEAVES = (Box, Discrete, MultiBinary, MultiDiscrete, Text)
CHOICES = 1024  # integers of a Box, below which each has a token of its own, and is no magnitude
FEW = 32  # elements that are compared faster as Python numbers
SUCCESS = ("success", "is_success")  # names under which infos report it
MOST = 1e100  # of a return, either side of zero: beyond it the variance of returns is no float

Bounds = tuple[NDArray[Any], NDArray[Any]]


class HeldLeaf:
    """The rule of one leaf.

    Args:
        leaf: with its path, which messages name.
        acted: for actions; False for observations.
        clip: clips what lies beyond the bounds of a Box.
    """

    def __init__(self, leaf: Leaf, acted: bool, clip: bool = False) -> None:
        self._leaf, self._acted, self._clip = leaf, acted, clip and isinstance(leaf.space, Box)
        self._bounds = None if isinstance(leaf.space, Text) else enforced(leaf.space, acted)

    def column(self, values: Any) -> NDArray[Any]:
        """The values as an array [B, *leaf shape] of the leaf's dtype (Text: object [B]).

        Raises:
            SpaceError: a value that cannot be held; names the path, the row and the element.
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
        """Mark the elements that cannot be held; bool, in the shape of the column."""
        wrong = ~np.isfinite(column) if column.dtype.kind == "f" else np.zeros(column.shape, np.bool_)
        if self._bounds is not None:
            wrong |= (column < self._bounds[0]) | (column > self._bounds[1])
        return wrong

    def refuse(self, column: NDArray[Any], at: list[int]) -> None:
        """Raise SpaceError for the element at these indices, of which the first is the row."""
        row, *index = at
        value, where = column[tuple(at)], f"element {index}" if index else "value"
        what = "not a finite number"
        if np.isfinite(value) and self._bounds is not None:
            low, high = (bound[tuple(index)] for bound in self._bounds)
            what = f"beyond its bounds {low} to {high}"
        raise space_error(self._leaf.path, f"{where} is {value}, {what}", row)

    def value(self) -> Callable[[Any], Any]:
        """Build the function from a single value to what is held of it: itself, if nothing is to be cast.

        The function raises SpaceError as `column` does.
        """
        sound, column = _sound(self._leaf.space, self._acted, self._bounds), self.column
        scalar = isinstance(self._leaf.space, (Discrete, Text))

        def hold(value: Any) -> Any:
            try:
                if sound(value):
                    return value
            except (AttributeError, TypeError, ValueError):
                pass  # an unusual but perhaps sound value, such as a list for an array
            held = column([value])
            return held[0] if scalar else held[0, ...]

        return hold


def enforced(space: Space[Any], acted: bool) -> Bounds | None:
    """The least and the largest value of each element that can be held; None where the dtype says it all."""
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
    with np.errstate(over="ignore"):  # a space with values beyond its dtype has no tokens, and is refused for that
        return low, low + (n - 1).astype(low.dtype)


def check_values(leaf: Leaf) -> None:
    """Raise SpaceError for a Discrete or MultiDiscrete whose largest value its dtype cannot hold."""
    space = leaf.space
    if isinstance(space, (Discrete, MultiDiscrete)):
        low, n = np.ravel(space.start), np.ravel(space.n if isinstance(space, Discrete) else space.nvec)
        if (low > np.iinfo(low.dtype).max - (n - 1)).any():
            raise space_error(leaf.path, f"{space} has values beyond {low.dtype}: give it a wider dtype")


def _span(low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.uint64]:
    """The largest value less the smallest, exact for any dtype of integers."""
    return high.astype(np.uint64) - low.astype(np.uint64)


def _sound(space: Space[Any], acted: bool, bounds: Bounds | None) -> Callable[[Any], bool]:
    """Build a quick test: true where a value is held as it is; false, or an exception, where it needs a close look."""
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
        # 0 * x is 0 unless x is NaN or infinite: one silent product takes half the time of np.isfinite(x).all().
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
            and not [number for number in value.tolist() if not least <= number <= most]  # so written, it finds NaN
        )
    return lambda value: bool(
        value.shape == shape and value.dtype == dtype and count((value >= low) & (value <= high)) == size
    )


def _text_fault(space: Text, text: str, acted: bool) -> str | None:
    """What of a text cannot be held, if anything."""
    if len(text) > space.max_length:
        return f"a text of {len(text)} characters, beyond its bound of {space.max_length}: {text!a:.80}"
    if acted and not space.contains(text):
        return f"{text!a:.80} is not in {space!a:.200}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text!a:.80} has characters that Unicode does not have"
    return None


def holder(space: Space[Any], acted: bool = False, keys: tuple[str | int, ...] = ()) -> Callable[[Any], Any]:
    """Build the function from a value of a (nested) space to what is held of it.

    Args:
        space: any nesting of the spaces that this project knows; values of others are passed on as they are.
        acted: for actions; False for observations.
        keys: where the space lies in a larger one, for errors.

    Returns:
        A function to a value that the space's dtypes hold exactly. Arrays are those that were passed, or new ones. It
        raises SpaceError for a value that cannot be held, naming the path and the element.
    """
    if isinstance(space, Dict):
        entries = [(key, holder(entry, acted, (*keys, key))) for key, entry in space.spaces.items()]

        def hold_dict(value: Any) -> dict[str, Any]:
            try:
                return {key: hold(value[key]) for key, hold in entries}
            except (IndexError, KeyError, TypeError):
                raise space_error(pointer(keys), f"{brief(value)} without the entries {list(space.spaces)}") from None

        return hold_dict
    if isinstance(space, Tuple):
        parts = [holder(entry, acted, (*keys, index)) for index, entry in enumerate(space.spaces)]

        def hold_tuple(value: Any) -> tuple[Any, ...]:
            if not isinstance(value, (tuple, list)) or len(value) != len(parts):
                raise space_error(pointer(keys), f"{brief(value)} instead of a tuple of {len(parts)} entries")
            return tuple([hold(item) for hold, item in zip(parts, value, strict=True)])

        return hold_tuple
    if isinstance(space, LEAVES):
        return HeldLeaf(Leaf(pointer(keys), space), acted).value()
    return lambda value: value


def column_holder(space: Space[Any], acted: bool = False, clip: bool = False) -> Callable[[Columns], Columns]:
    """Build the function from columns of many values to what is held of them; it raises SpaceError as `holder`'s.

    Args:
        space: see `holder`.
        acted: see `holder`.
        clip: clips what lies beyond the bounds of a Box.
    """
    found = {leaf.path: HeldLeaf(leaf, acted, clip) for leaf in leaves(space)}

    def hold(columns: Columns) -> Columns:
        if missing := found.keys() - columns.keys():
            raise space_error(min(missing), "missing")
        return {path: leaf.column(columns[path]) for path, leaf in found.items()}

    return hold


def reward_of(value: Any) -> float:
    """The reward as a float: of any number, or array of one number.

    Raises:
        ValueError: something else, or a number that is not finite or beyond MOST.
    """
    if not isinstance(value, (float, int, np.floating, np.integer)):
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise ValueError(f"a reward that is not one number: {brief(value)}")
        value = array.item()
    try:
        number = float(value)
    except OverflowError:  # an integer that no float can hold
        number = np.inf
    if not -MOST < number < MOST:
        raise ValueError(f"a reward that is not a finite number: {brief(value)}")
    return number


def flag_of(value: Any, name: str) -> bool:
    """The truth of `terminated` or `truncated`: of a bool, a number, None, or an array of one of them.

    Raises:
        ValueError: something else, such as one truth value for each of many agents.
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return bool(value)
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() != array.item():
        raise ValueError(f"{name} that is not one truth value: {brief(value)}")
    return bool(array.item())


def success_of(info: Mapping[Any, Any]) -> bool | None:
    """The success that an info reports, under either of Gymnasium's usual names; None if it reports none."""
    reported = [info[key] for key in SUCCESS if key in info]
    return any(map(_is_true, reported)) if reported else None


def _is_true(value: Any) -> bool:
    try:
        return bool(np.any(value))
    except Exception:  # noqa: BLE001  # infos may hold anything, such as an object that has no truth value
        return False


def brief(value: Any) -> str:
    """A value in a message, of at most 80 characters; a large array by its shape and dtype."""
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"an array of shape {value.shape} of {value.dtype}"
    text = " ".join(f"{value!r}".split())
    kind = f" ({type(value).__name__} of shape {value.shape})" if isinstance(value, np.ndarray) else ""
    return (text if len(text) <= 80 else f"{text[:77]}...") + kind
