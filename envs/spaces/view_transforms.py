"""The steps of a view, each a transform of one leaf of an observation.

A step's `space` maps the leaf's space to that of the result (None: dropped), and raises SpaceError for an unsuitable
space. Its `column` maps a column [B, ...] of values, and raises SpaceError for a value that would be lost.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete, Space
from numpy.typing import NDArray

from gato_agent.envs.spaces.flatten import space_error

PATCH = 16  # side of an image patch
CHANNELS = 4  # of a patch


@dataclass(frozen=True)
class Drop:
    """Remove the leaf."""

    path: str

    def space(self, space: Space[Any]) -> None:
        """Return None: the leaf is dropped."""

    def column(self, column: NDArray[Any]) -> None:
        """Return None: the leaf is dropped."""


@dataclass(frozen=True)
class Select:
    """Keep some elements of a Box, counted row-major, in the order of `index`."""

    path: str
    index: tuple[int, ...]

    def space(self, space: Space[Any]) -> Space[Any]:
        """A Box of these elements, with their bounds."""
        box = _box(space, self.path, "select")
        if not self.index or min(self.index) < 0 or max(self.index) >= box.low.size:
            raise space_error(self.path, f"select {list(self.index)} of {box.low.size} elements")
        at = list(self.index)
        return Box(box.low.ravel()[at], box.high.ravel()[at], dtype=box.dtype.type)

    def column(self, column: NDArray[Any]) -> NDArray[Any]:
        """[B, ...] -> [B, elements]."""
        return column.reshape(len(column), -1)[:, self.index]


@dataclass(frozen=True)
class Scale:
    """Scale each element linearly from `low`..`high` to -1..1; tokens clip values outside of that range."""

    path: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    def space(self, space: Space[Any]) -> Space[Any]:
        """A Box from -1 to 1."""
        box = _box(space, self.path, "scale")
        if not len(self.low) == len(self.high) == box.low.size or not np.less(self.low, self.high).all():
            raise space_error(self.path, f"scale needs low < high for each of {box.low.size} elements")
        return Box(-1.0, 1.0, box.shape, np.float64)

    def column(self, column: NDArray[Any]) -> NDArray[Any]:
        """[B, ...] -> float64 [B, ...]."""
        low, high = (np.reshape(bound, column.shape[1:]) for bound in (self.low, self.high))
        return np.asarray(2 * (column.astype(np.float64) - low) / (high - low) - 1)


@dataclass(frozen=True)
class Cells:
    """Combine the last axis of a grid, digits below `sizes`, into one integer per cell."""

    path: str
    sizes: tuple[int, ...]

    def space(self, space: Space[Any]) -> Space[Any]:
        """A MultiDiscrete in the grid's shape."""
        box = _box(space, self.path, "cells")
        if box.shape[-1:] != (len(self.sizes),) or box.dtype.kind not in "iub" or min(self.sizes, default=0) < 1:
            raise space_error(self.path, f"cells of {list(self.sizes)} digits in {box}: one size for each channel")
        if (values := math.prod(self.sizes)) > 2**31:
            raise space_error(self.path, f"cells of {values} values")
        return MultiDiscrete(np.full(box.shape[:-1], values, np.int64))

    def column(self, column: NDArray[Any]) -> NDArray[Any]:
        """[B, ..., channels] -> int64 [B, ...]."""
        wrong = (column < 0) | (column >= np.array(self.sizes))
        if wrong.any():
            row, *at = np.argwhere(wrong)[0].tolist()
            what = f"element {at} is {column[(row, *at)]}, beyond the {self.sizes[at[-1]]} values of its view"
            raise space_error(self.path, what, row)
        steps = np.append(np.cumprod(self.sizes[:0:-1])[::-1], 1).astype(np.int64)
        return np.asarray(column.astype(np.int64) @ steps)


@dataclass(frozen=True)
class Planes:
    """Show a small grid as an image of one pixel per cell, multiplied by `times` for contrast, four channels per patch.

    A grid [h, w, c] of at most 16 x 16 cells becomes uint8 [16, 16 * ceil(c / 4), 4], padded with zeros.
    """

    path: str
    times: tuple[int, ...]

    def space(self, space: Space[Any]) -> Space[Any]:
        """A Box of uint8 [16, 16 * patches, 4]."""
        box = _box(space, self.path, "planes")
        if len(box.shape) != 3 or max(box.shape[:2]) > PATCH or len(self.times) != box.shape[2]:
            raise space_error(self.path, f"planes of {box}: at most {PATCH} x {PATCH} cells, one factor per channel")
        if box.dtype.kind not in "iub" or min(self.times, default=0) < 1:
            raise space_error(self.path, f"planes of {box} times {list(self.times)}: whole numbers are needed")
        return Box(0, 255, (PATCH, PATCH * -(-len(self.times) // CHANNELS), CHANNELS), np.uint8)

    def column(self, column: NDArray[Any]) -> NDArray[Any]:
        """[B, h, w, c] -> uint8 [B, 16, 16 * patches, 4]."""
        count, height, width, channels = column.shape
        scaled = column.astype(np.int64) * np.array(self.times)
        wrong = (scaled < 0) | (scaled > 255)
        if wrong.any():
            row, *at = np.argwhere(wrong)[0].tolist()
            raise space_error(self.path, f"element {at} is {column[(row, *at)]}, beyond the range of its view", row)
        patches = -(-channels // CHANNELS)
        canvas = np.zeros((count, PATCH, PATCH, patches * CHANNELS), np.uint8)
        canvas[:, :height, :width, :channels] = scaled
        side_by_side = canvas.reshape(count, PATCH, PATCH, patches, CHANNELS).swapaxes(2, 3)
        return side_by_side.reshape(count, PATCH, patches * PATCH, CHANNELS)


@dataclass(frozen=True)
class Fold:
    """Convert some rows of a frame to gray and fold 2 x 2 pixels into four channels: a quarter of the patches.

    `rows` are the first row and one past the last. Gray is the rounded mean of the channels.
    """

    path: str
    rows: tuple[int, ...]

    def space(self, space: Space[Any]) -> Space[Any]:
        """A Box of uint8 [rows / 2, w / 2, 4]."""
        box = _box(space, self.path, "fold")
        if box.dtype != np.uint8 or len(box.shape) != 3 or len(self.rows) != 2:
            raise space_error(self.path, f"fold of {box}: frames [h, w, c] of uint8 and two rows are needed")
        (top, end), width = self.rows, box.shape[1]
        if not 0 <= top <= end - 2 * PATCH <= box.shape[0] - 2 * PATCH or (end - top) % 2 or width % 2:
            raise space_error(self.path, f"fold of rows {top} to {end} of {box}: sides must be even, and 32 or more")
        return Box(0, 255, ((end - top) // 2, width // 2, CHANNELS), np.uint8)

    def column(self, column: NDArray[Any]) -> NDArray[Any]:
        """[B, h, w, c] -> uint8 [B, rows / 2, w / 2, 4]: top left, top right, bottom left, bottom right."""
        frames = column[:, slice(*self.rows)]
        channels = frames.shape[3]
        gray = (frames.sum(3, dtype=np.uint16) + channels // 2) // channels
        return np.stack([gray[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=3).astype(np.uint8)


def _box(space: Space[Any], path: str, step: str) -> Box[Any]:
    if not isinstance(space, Box):
        raise space_error(path, f"is {space}, and {step} needs a Box")
    return space
