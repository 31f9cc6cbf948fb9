"""Base class of leaf kinds: the knowledge about one class of fundamental spaces.

A kind turns values into columns (arrays of one row per value) and back, validates them, describes its spaces in JSON,
and gives the range of each element, from which the tokenizer derives tokens. To add a kind, subclass `LeafKind` and
register it (see leaf_table.py); a kind whose values are arrays of numbers needs `to_json`, `from_json` and `limits`.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from gato_agent.envs.errors import one_line
from gato_agent.envs.spaces.json_arrays import checked_shape
from gato_agent.envs.spaces.paths import space_error

CHOICES = 1024  # an element with at most so many integer values is categorical: each value has its own token
UNREADABLE = "cannot be read as an array"
FEW = 32  # up to so many elements are compared faster as Python numbers

Bounds = tuple[NDArray[Any], NDArray[Any]]
S = TypeVar("S", bound=Space[Any])


class Ranges(NamedTuple):
    """Ranges of the elements of a leaf, arrays [elements]: limits of the column's dtype, and masks of finite ones."""

    low: NDArray[Any]
    high: NDArray[Any]
    bounded_below: NDArray[np.bool_]
    bounded_above: NDArray[np.bool_]


class LeafKind(Generic[S]):
    """Kind of leaf whose values are arrays of numbers, and whose columns have the space's shape and dtype.

    Attributes:
        space: class of its spaces; its name is the `kind` in JSON.
        scalar: True if a single value is no array.
        objects: True if values are Python objects, of which a batch is a tuple; such values are scalar.
    """

    space: ClassVar[type[Space[Any]]]
    scalar: ClassVar[bool] = False
    objects: ClassVar[bool] = False

    def to_json(self, space: S) -> dict[str, Any] | None:
        """Description in strict JSON; None if this space has none."""
        raise NotImplementedError

    def from_json(self, json: dict[str, Any]) -> S:
        """Inverse of `to_json`; untrusted input raises ValueError, TypeError or KeyError."""
        raise NotImplementedError

    def json_shape(self, json: dict[str, Any]) -> tuple[int, ...]:
        """Shape of the described space, checked before anything of that size is allocated."""
        return checked_shape(json["shape"])

    def limits(self, space: S) -> Bounds:
        """Smallest and largest value of each element, of the column's shape and dtype."""
        raise NotImplementedError

    def bounds(self, space: S, acted: bool) -> Bounds | None:
        """Least and largest valid value of each element; None if the dtype has no other values."""
        return self.limits(space)

    def ranges(self, space: S, path: str) -> Ranges:
        """Range of each element; raises SpaceError for values beyond the dtype."""
        low, high = map(np.ravel, self.limits(space))
        if (high < low).any():  # after an overflow
            raise space_error(path, f"{space} has values beyond {low.dtype}: give it a wider dtype")
        return Ranges(low, high, np.ones(low.shape, np.bool_), np.ones(low.shape, np.bool_))

    def choices(self, space: S) -> int:
        """Largest number of values of an element if each value is a category, else 0."""
        return 0

    def is_grid(self, space: S) -> bool:
        """True if elements are the cells of a grid of rows."""
        return False

    def shape(self, space: S) -> tuple[int, ...]:
        """Shape of a row of a column."""
        return space.shape or ()

    def dtype(self, space: S) -> np.dtype[Any]:
        """Dtype of a column."""
        assert space.dtype is not None
        return space.dtype

    def column(self, space: S, path: str, values: Any) -> NDArray[Any]:
        """Values as an array [B, *shape]: floats are rounded to the dtype, integers must be exact.

        Raises:
            SpaceError: wrong shape or type, or a number that is not exact in an integer dtype.
        """
        try:
            raw = np.asarray(values)
        except ValueError:
            raise space_error(path, "values have differing shapes") from None
        except Exception as error:  # such as a tensor on another device, or one that requires a gradient
            raise space_error(path, f"a value {UNREADABLE} ({one_line(error)})", in_no_space=True) from error
        shape, dtype = self.shape(space), self.dtype(space)
        if _is_masked(values):
            raise space_error(path, "a masked array with masked elements, which have no value")
        if raw.dtype.kind not in "biuf" or raw.shape[1:] != shape or raw.ndim == 0:
            raise space_error(path, f"shape {raw.shape[1:]} of {raw.dtype} instead of {shape} of {dtype}")
        if raw.dtype == dtype:
            return raw
        with np.errstate(over="ignore", invalid="ignore"):
            column = raw.astype(dtype)
            wrong = np.zeros(0, bool) if column.dtype.kind == "f" else column != raw
        if wrong.any():
            at = np.argwhere(wrong)[0].tolist()
            element = f"element {at[1:]}" if at[1:] else "value"
            what = f"{element} is {raw[tuple(at)]}, which is no {dtype}"
            raise space_error(path, what, row=at[0], remedy="round it")
        return column

    def row(self, space: S, column: NDArray[Any], index: int) -> Any:
        """Single value of a column; an array is a view."""
        # `[index, ...]` keeps a Box of shape () an array, where `[index]` would make it a scalar.
        return column[index] if self.scalar else column[index, ...]

    def batch(self, space: S, column: NDArray[Any]) -> Any:
        """Column as a batch of `batch_space`."""
        return column

    def is_single(self, space: S, value: Any) -> bool:
        """True for one value, False for a batch of values."""
        return bool(np.ndim(value) == len(self.shape(space)))

    def sound(self, space: S, acted: bool, bounds: Bounds | None) -> Callable[[Any], bool]:
        """Build a fast test: true if a value is valid without a cast; false or an exception if it must be validated."""
        shape, dtype, array = space.shape, space.dtype, np.ndarray  # a subclass may mask elements
        if bounds is None:
            return lambda value: bool(type(value) is array and value.shape == shape and value.dtype == dtype)
        (low, high), size, count = bounds, bounds[0].size, np.count_nonzero
        if low.ndim == 1 and 0 < size <= FEW and (low == low[0]).all() and (high == high[0]).all():
            least, most = low[0].item(), high[0].item()
            return lambda value: bool(
                type(value) is array
                and value.shape == shape
                and value.dtype == dtype
                and not [number for number in value.tolist() if not least <= number <= most]  # `not <=` finds NaN
            )
        return lambda value: bool(
            type(value) is array
            and value.shape == shape
            and value.dtype == dtype
            and count((value >= low) & (value <= high)) == size
        )

    def check(self, space: S, path: str, column: NDArray[Any], acted: bool, bounds: Bounds | None) -> None:
        """Raise SpaceError for the first invalid value of a column.

        Args:
            space: the leaf.
            path: of the leaf.
            column: values in the form of `column`.
            acted: True for actions, False for observations.
            bounds: result of `bounds`.
        """
        wrong = ~np.isfinite(column) if column.dtype.kind == "f" else np.zeros(column.shape, np.bool_)
        if bounds is not None:
            wrong |= (column < bounds[0]) | (column > bounds[1])
        if wrong.any():
            refuse(path, column, np.argwhere(wrong)[0].tolist(), bounds, clipped=not self.choices(space))

    def same_meaning(self, a: S, b: S, acted: bool) -> bool:
        """True if values of both spaces become the same tokens."""
        return all(np.array_equal(*pair) for pair in zip(self.limits(a), self.limits(b), strict=True))

    def mask(self, space: S, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Action mask of the environment as one bool per choice of each element; raises ValueError for other values."""
        if not ((values == 0) | (values == 1)).all():
            raise ValueError("0 and 1")
        return values.astype(np.bool_)


def _is_masked(values: Any) -> bool:
    """True for an array of numpy.ma, or a list with one, that has masked elements."""
    arrays = values if isinstance(values, list | tuple) else [values]
    return any(isinstance(array, np.ma.MaskedArray) and bool(np.ma.is_masked(array)) for array in arrays)


def refuse(path: str, column: NDArray[Any], at: list[int], bounds: Bounds | None, *, clipped: bool = False) -> None:
    """Raise SpaceError for the element of a column at these indices, the first of which is the row.

    Args:
        path: of the leaf.
        column: values of the leaf.
        at: indices of the element.
        bounds: of valid values.
        clipped: True if clipping makes values beyond their bounds valid.
    """
    row, *index = at
    value, where = column[tuple(at)], f"element {index}" if index else "value"
    what, remedy, finite = "not a finite number", "", bool(np.isfinite(value))
    if finite and bounds is not None:
        low, high = (bound[tuple(index)] for bound in bounds)
        what, remedy = f"beyond its bounds {low} to {high}", "clip it" * clipped
    raise space_error(path, f"{where} is {value}, {what}", row, remedy, in_no_space=not finite)


def from_start(start: Any, n: Any) -> Bounds:
    """Smallest and largest value; those beyond the dtype overflow."""
    low, n = np.asarray(start), np.asarray(n)
    with np.errstate(over="ignore"):
        return low, low + (n - 1).astype(low.dtype)
