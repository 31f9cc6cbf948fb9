"""Action masks of environments as allowed ids of action tokens."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Tuple
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import Leaf, space_error
from gato_agent.envs.spaces.paths import pointer
from gato_agent.inference.sampling import MaskBlocks
from gato_agent.tokens.space_tokenizer import SpaceTokenizer

Bools = NDArray[np.bool_]
MASKABLE = 2**20  # values of a leaf that is decoded as digits


class ActionMasks:
    """Allowed ids of all action tokens, from masks in the form of Gymnasium or of sb3-contrib.

    A mask of a Dict or Tuple space is a dict or tuple of masks, which may be None for all values. A leaf's mask is

        Discrete(n)          n values, True or 1 where it is allowed
        MultiDiscrete(nvec)  a tuple of such masks, or all of them in one array of sum(nvec) values
        MultiBinary(n)       2 n values, for 0 and 1 of each bit; or n values: 0, 1, or 2 for both

    Args:
        space: of the actions.
        tokenizer: of the task.

    Attributes:
        blocks: layout of what `allowed` returns.
    """

    def __init__(self, space: Space[Any], tokenizer: SpaceTokenizer) -> None:
        self._space = space
        self._tokens = {leaf.path: slot for leaf, slot in tokenizer.acted}
        self._sizes = (tokenizer.legal[:, 1] - tokenizer.legal[:, 0]).tolist()
        self._digits = tokenizer.acted_digits
        places = [0] * tokenizer.n_act
        for path, digits in self._digits.items():
            if sum(digits.counts) <= MASKABLE:
                places[self._tokens[path]] = digits.places
        self.blocks = MaskBlocks(self._sizes, places)

    def allowed(self, masks: Sequence[Any]) -> Bools | None:
        """Allowed ids, bool [env, width of the blocks]; None if no environment has a mask.

        Args:
            masks: one per environment; None for all actions.

        Raises:
            SpaceError: a mask of a wrong shape, of a leaf that cannot be masked, or one that allows no value.
        """
        if all(mask is None for mask in masks):
            return None
        allowed = np.ones((len(masks), self.blocks.width), np.bool_)
        for row, mask in enumerate(masks):
            for leaf, part in _parts(self._space, mask):
                self._write(allowed[row], leaf, part, row)
        return allowed

    def _write(self, allowed: Bools, leaf: Leaf, mask: Any, row: int) -> None:
        values, slot, digits = _flat(leaf, mask, row), self._tokens[leaf.path], self._digits.get(leaf.path)
        counts = digits.counts if digits else self._sizes[slot]
        if values.size != sum(counts):
            raise space_error(leaf.path, f"action mask of {values.size} values instead of {sum(counts)}", row)
        elements = np.split(values, np.cumsum(counts)[:-1])
        for element in (at for at, part in enumerate(elements) if not part.any()):
            raise space_error(leaf.path, f"action mask allows no value of element {element}", row)
        if digits and values.size > MASKABLE:
            raise space_error(leaf.path, f"action mask of {values.size:,} values: {MASKABLE:,} can be masked", row)
        if digits:
            elements = digits.masks(values)
        for at, part in zip(range(slot.start, slot.stop), elements, strict=True):
            allowed[self.blocks.block(at)] = part.ravel()


def _parts(space: Space[Any], mask: Any, keys: tuple[str | int, ...] = ()) -> list[tuple[Leaf, Any]]:
    """Pairs of a leaf and its mask, for leaves that have one."""
    if mask is None:
        return []
    if isinstance(space, (Dict, Tuple)):
        children: Iterable[tuple[str | int, Space[Any]]] = (
            sorted(space.spaces.items()) if isinstance(space, Dict) else enumerate(space.spaces)
        )
        parts = []
        for key, child in children:
            try:
                part = mask[key]
            except (KeyError, IndexError, TypeError):
                raise space_error(pointer(keys), f"action mask has no entry {key!r}") from None
            parts += _parts(child, part, (*keys, key))
        return parts
    return [(Leaf(pointer(keys), space), mask)]


def _flat(leaf: Leaf, mask: Any, row: int) -> Bools:
    """Mask of one leaf as bool, one value per id."""
    if not leaf.kind.choices(leaf.space):
        raise space_error(leaf.path, f"action mask of a {type(leaf.space).__name__}: only choices can be masked", row)
    try:
        parts = [np.ravel(part) for part in mask] if isinstance(mask, (tuple, list)) else [np.ravel(mask)]
        values = np.concatenate(parts)
    except ValueError:
        raise space_error(leaf.path, "action mask is not an array of numbers", row) from None
    if values.dtype.kind not in "biu" or (values.size and not 0 <= values.min() <= values.max() <= 2):
        raise space_error(leaf.path, "action mask must hold 0 and 1", row)
    return leaf.kind.mask(leaf.space, values)
