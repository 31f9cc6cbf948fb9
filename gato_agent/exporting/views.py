"""Steps of a view as operators of PyTorch, each equal to the `column` of `envs/spaces/view_transforms.py`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from gato_agent.envs.spaces.flatten import leaves
from gato_agent.envs.spaces.paths import pointer
from gato_agent.envs.spaces.view_transforms import CHANNELS, PATCH, Cells, Drop, Fold, Planes, Scale, Select
from gato_agent.envs.spaces.views import View


class TensorView(nn.Module):
    """A view of observations.

    Args:
        view: of the task.
        space: of observations before the view.
    """

    def __init__(self, view: View, space: Space[Any]) -> None:
        super().__init__()
        self._steps = view.steps
        self._shapes: list[tuple[int, ...]] = []  # of each step's leaf
        for at, step in enumerate(view.steps):
            left = View(view.steps[:at]).space(space)
            shapes = {leaf.path: leaf.space.shape for leaf in leaves(left)}
            self._shapes.append(shapes[pointer((step.path,)) if at else step.path] or ())

    def forward(self, columns: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Columns [B, ...] by path -> viewed ones, and for steps that would lose a value bool [B], False where."""
        if not self._steps:
            return columns, []
        left, valid = dict(columns), list[Tensor]()
        for step, shape in zip(self._steps, self._shapes, strict=True):
            if isinstance(step, Drop):
                left.pop(step.path, None)
                continue
            seen, fits = TRANSFORMS[type(step)](step, left[step.path], shape)
            left[step.path] = seen
            valid += [] if fits is None else [fits.flatten(1).all(1)]
        return {pointer((path,)): column for path, column in left.items()}, valid


Transformed = tuple[Tensor, Tensor | None]


def _select(step: Select, column: Tensor, shape: tuple[int, ...]) -> Transformed:
    return column.flatten(1)[:, list(step.index)], None


def _scale(step: Scale, column: Tensor, shape: tuple[int, ...]) -> Transformed:
    low, high = (torch.tensor(bound, dtype=torch.float64).reshape(shape) for bound in (step.low, step.high))
    return 2 * (column.double() - low) / (high - low) - 1, None


def _cells(step: Cells, column: Tensor, shape: tuple[int, ...]) -> Transformed:
    digits, sizes = column.long(), torch.tensor(step.sizes)
    factors = torch.tensor([math.prod(step.sizes[at + 1 :]) for at in range(len(step.sizes))])
    return (digits.clamp(min=0).minimum(sizes - 1) * factors).sum(-1), (digits >= 0) & (digits < sizes)


def _planes(step: Planes, column: Tensor, shape: tuple[int, ...]) -> Transformed:
    scaled = column.int() * torch.tensor(step.times, dtype=torch.int32)
    patches = -(-shape[2] // CHANNELS)
    canvas = padded(scaled.clamp(0, 255), (PATCH, PATCH, patches * CHANNELS))
    side_by_side = canvas.reshape(-1, PATCH, PATCH, patches, CHANNELS).permute(0, 1, 3, 2, 4)
    return side_by_side.reshape(-1, PATCH, patches * PATCH, CHANNELS), (scaled >= 0) & (scaled <= 255)


def _fold(step: Fold, column: Tensor, shape: tuple[int, ...]) -> Transformed:
    frames, channels = column[:, slice(*step.rows)].int(), shape[2]
    gray = (frames.sum(3, dtype=torch.int32) + channels // 2) // channels
    return torch.stack([gray[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=3), None


TRANSFORMS: dict[type, Callable[[Any, Tensor, tuple[int, ...]], Transformed]] = {
    Select: _select, Scale: _scale, Cells: _cells, Planes: _planes, Fold: _fold,
}  # fmt: skip


def padded(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """[B, ...] with zeros after its elements in the axes beyond the first, up to these sizes."""
    missing = np.subtract(sides, x.shape[1:]).tolist()
    return nn.functional.pad(x, [part for side in reversed(missing) for part in (0, side)])
