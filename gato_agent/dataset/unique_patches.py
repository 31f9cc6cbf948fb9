"""The distinct image patches of a task's episodes."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gato_agent.tokens.image_layout import CHANNELS, PATCH_SIZE
from gato_agent.tokens.leaf_codecs import distinct

NO_PATCHES = np.zeros((0, PATCH_SIZE, PATCH_SIZE, CHANNELS), np.uint8)
Scalar = TypeVar("Scalar", bound=np.generic)


def flat(parts: NDArray[Scalar]) -> NDArray[Scalar]:
    """[timesteps, k, ...] -> [timesteps * k, ...]."""
    return parts.reshape(parts.shape[0] * parts.shape[1], *parts.shape[2:])


class UniquePatches:
    """Set of unique image patches, in insertion order."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def places(self, patches: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Add patches [B, k, 16, 16, 4]; returns their indices, int32 [B, k]."""
        if not patches.size:
            return np.zeros(patches.shape[:2], np.int32)
        different, inverse = distinct(flat(patches))
        known = self._known
        at = np.array([known.setdefault(patch.tobytes(), len(known)) for patch in different], np.int32)
        return at[inverse].reshape(patches.shape[:2])

    def all(self) -> NDArray[np.uint8]:
        """All unique patches, uint8 [k, 16, 16, 4]."""
        return np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, *NO_PATCHES.shape[1:])
