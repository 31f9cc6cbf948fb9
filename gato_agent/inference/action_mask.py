"""Action masks of environments as allowed ids of action tokens."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space, Tuple
from numpy.typing import NDArray

from gato_agent.envs.spaces.choice_masks import flat_mask
from gato_agent.envs.spaces.flatten import Leaf, space_error
from gato_agent.envs.spaces.paths import pointer
from gato_agent.inference.decoders.sampling import MaskBlocks
from gato_agent.tokens.space_tokenizer import SpaceTokenizer

Bools = NDArray[np.bool_]
MASKABLE = 2**20  # values of a leaf that is decoded as digits


class ActionMasks:
    """Allowed ids of all action tokens, from masks in the form of Gymnasium or of sb3-contrib.

    A mask of a Dict or Tuple space is a dict or tuple of masks, which may be None for all values. The forms of a
    leaf's mask are in `envs/spaces/choice_masks.py`.

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
        elements, slot, digits = flat_mask(leaf, mask, row), self._tokens[leaf.path], self._digits.get(leaf.path)
        if digits and (size := sum(map(len, elements))) > MASKABLE:
            raise space_error(leaf.path, f"action mask of {size:,} values: {MASKABLE:,} can be masked", row)
        if digits:
            elements = digits.masks(np.concatenate(elements))
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
