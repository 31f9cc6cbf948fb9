"""Masks of the values of one space of choices, in the forms of Gymnasium and of sb3-contrib.

Discrete(n)          n values of any dtype, True or 1 where it is allowed, else False or 0
MultiDiscrete(nvec)  a tuple of such masks, or all of them in one array of sum(nvec) values
MultiBinary(n)       2 n values, for 0 and 1 of each bit; or n values: 0, 1, or 2 for both
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Leaf, space_error


def flat_mask(leaf: Leaf, mask: Any, row: int | None = None) -> list[NDArray[np.bool_]]:
    """Read a mask of a leaf: for each element of the space, bool [its number of values].

    Args:
        leaf: the leaf; messages name its path.
        mask: in a form of the table above.
        row: index of the environment, for errors.

    Raises:
        SpaceError: a mask of a wrong shape, of numbers other than 0 and 1, or of a leaf that is no choice; or an
            element without an allowed value.
    """
    if not leaf.kind.choices(leaf.space):
        what = f"action mask of a {type(leaf.space).__name__}: only choices can be masked"
        raise space_error(leaf.path, f"{what}; remove it from the info in a wrapper, or set it to None", row)
    values, counts = _values(leaf, mask, row), _counts(leaf)
    if values.size != sum(counts):
        raise space_error(leaf.path, f"action mask of {values.size} values instead of {sum(counts)}", row)
    elements = np.split(values, np.cumsum(counts)[:-1])
    for element in (at for at, part in enumerate(elements) if not part.any()):
        raise space_error(leaf.path, f"action mask allows no value of element {element}", row)
    return elements


def _counts(leaf: Leaf) -> list[int]:
    """Values of each element of a space of choices."""
    low, high = map(np.ravel, leaf.kind.limits(leaf.space))
    return [last - first + 1 for first, last in zip(low.tolist(), high.tolist(), strict=True)]


def _values(leaf: Leaf, mask: Any, row: int | None) -> NDArray[np.bool_]:
    """Mask of one leaf as bool, one after the other."""
    try:
        parts = [np.ravel(part) for part in mask] if isinstance(mask, (tuple, list)) else [np.ravel(mask)]
        values = np.concatenate(parts)
    except ValueError:
        raise space_error(leaf.path, "action mask is not an array of numbers", row) from None
    try:
        return leaf.kind.mask(leaf.space, values if values.dtype.kind in "biuf" else np.full(1, np.nan))
    except ValueError as error:
        raise space_error(leaf.path, f"action mask must hold {error}", row) from None
