"""Layout of images by their space: the axes of the sides, and the channels of each patch.

(84, 84), (84, 84, 3)         height, width(, channels)         one set of patches
(3, 84, 84), (4, 84, 84)      channels or gray frames first     one set: up to four share a patch
(84, 84, 12), (4, 84, 84, 3)  stacked frames of three channels  one set a frame, oldest first
(8, 84, 84)                   eight gray frames                 two sets of four
"""

import math
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray

PATCH_SIZE = 16  # side of a patch
CHANNELS = 4  # of a patch


class ImageLayout(NamedTuple):
    """Assignment of the axes of an image to sets of patches.

    Attributes:
        side: axis of the height; the width follows.
        height: in pixels.
        width: in pixels.
        sets: of patches, each of which covers the picture.
        channels: of a set, at most four.
    """

    side: int
    height: int
    width: int
    sets: int
    channels: int

    def arrange(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images [B, *shape] -> [B, sets, height, width, channels]; missing channels of the last set are 0."""
        if self.side == 0 and self.sets == 1:
            return images.reshape(len(images), 1, self.height, self.width, self.channels)
        moved = np.moveaxis(images, (self.side + 1, self.side + 2), (1, 2))
        flat = moved.reshape(len(images), self.height, self.width, -1)
        missing = self.sets * self.channels - flat.shape[3]
        if missing:
            flat = np.pad(flat, ((0, 0), (0, 0), (0, 0), (0, missing)))
        parted = flat.reshape(len(images), self.height, self.width, self.sets, self.channels)
        return np.moveaxis(parted, 3, 1)


def image_layout(space: Space[Any]) -> ImageLayout | None:
    """Layout of a space of images, which are uint8 from 0 to 255 with two adjacent sides of at least 16; else None.

    All other axes are shorter than the sides: channels, frames, or both. A trailing axis of 1, 3 or 4 is channels.
    """
    if not isinstance(space, Box) or space.dtype != np.uint8 or not 2 <= len(space.shape) <= 4:
        return None
    if not ((space.low == 0).all() and (space.high == 255).all()):
        return None
    shape = space.shape
    last = len(shape) == 3 and shape[2] in (1, 3, 4)
    for side in range(1 if last else len(shape) - 1):
        sides, others = shape[side : side + 2], shape[:side] + shape[side + 2 :]
        if min(sides) >= PATCH_SIZE and min(others, default=1) > 0 and (last or max(others, default=0) < min(sides)):
            return ImageLayout(side, sides[0], sides[1], *_sets(others))
    return None


def _sets(others: tuple[int, ...]) -> tuple[int, int]:
    """Number of sets and channels of each, for the axes other than the sides."""
    total = math.prod(others)
    if total <= CHANNELS:
        return 1, total
    channels = others[-1] if len(others) == 2 and others[-1] in (3, CHANNELS) else 3 if total % 3 == 0 else CHANNELS
    return -(-total // channels), channels
