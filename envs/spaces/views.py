"""Views of observations: transforms before tokenization, stored as JSON in checkpoints and applied by the agent.

    [{"select": "", "index": [0, 1, 2, 36, 37, 38]}, {"scale": "", "low": [...], "high": [...]}]
    [{"cells": "image", "sizes": [11, 6, 3]}]        7 x 7 x 3 numbers  ->  49 tokens, one a cell of the grid
    [{"planes": "image", "times": [23, 51, 127]}]    7 x 7 x 3 numbers  ->  one image patch
    [{"fold": "", "rows": [35, 195]}]                210 x 160 pixels   ->  25 patches instead of 140
    [{"drop": "achieved_goal"}]

Each step names a leaf by its path (see flatten.py). Steps are lossless in what they keep (`fold` keeps brightness).
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from gymnasium.spaces import Dict, Space

from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.flatten import Columns, leaves
from gato_agent.envs.spaces.paths import pointer, space_error
from gato_agent.envs.spaces.view_transforms import Cells, Drop, Fold, Planes, Scale, Select

KINDS = {"drop": Drop, "select": Select, "scale": Scale, "cells": Cells, "planes": Planes, "fold": Fold}
AnyStep = Drop | Select | Scale | Cells | Planes | Fold
NAMES: dict[type[AnyStep], str] = {kind: name for name, kind in KINDS.items()}


@dataclass(frozen=True)
class View:
    """A sequence of steps; without any, observations are unchanged."""

    steps: tuple[AnyStep, ...] = ()

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read the result of `to_json`. Untrusted input is checked and never executed.

        Raises:
            GatoError: not a view; the message names the step.
        """
        if not isinstance(data, list | tuple):
            raise GatoError(f"a view is a list of steps, not {data!r:.80}")
        return cls(tuple(_step(step, f"step {number} of the view") for number, step in enumerate(data)))

    def to_json(self) -> list[dict[str, Any]]:
        """The view as JSON data; inverse of `from_json`."""
        return [{NAMES[type(step)]: step.path, **{k: list(v) for k, v in _arguments(step)}} for step in self.steps]

    def space(self, space: Space[Any]) -> Space[Any]:
        """Space of the viewed observations: a Dict of the remaining leaves by path.

        Raises:
            SpaceError: a step's leaf is missing or unsuitable, or no leaf remains.
        """
        if not self.steps:
            return space
        left = {leaf.path: leaf.space for leaf in leaves(space)}
        for step in self.steps:
            if step.path not in left:
                what = f"is not among the observation's leaves {list(left)}: it needs another view"
                raise space_error(step.path, what)
            seen = step.space(left.pop(step.path))
            left |= {} if seen is None else {step.path: seen}
        if not left:
            raise space_error("", "the view drops every leaf")
        return Dict(left)

    def columns(self, columns: Columns) -> Columns:
        """Columns of B viewed observations, one per leaf of `space`.

        Raises:
            SpaceError: a value would be lost in a step; the message names leaf, element and row.
        """
        if not self.steps:
            return columns
        left = dict(columns)
        for step in self.steps:
            if step.path not in left:
                raise space_error(step.path, "missing")
            seen = step.column(left.pop(step.path))
            left |= {} if seen is None else {step.path: seen}
        return {pointer((path,)): column for path, column in left.items()}


EVERYTHING = View()


def _arguments(step: AnyStep) -> list[tuple[str, tuple[float, ...]]]:
    return [(field.name, getattr(step, field.name)) for field in fields(step) if field.name != "path"]


def _step(data: Any, where: str) -> AnyStep:
    if not isinstance(data, dict) or len(names := KINDS.keys() & data.keys()) != 1:
        raise GatoError(f"{where} is {data!r:.80}, not one of {', '.join(KINDS)}")
    (name,) = names
    kind = KINDS[name]
    kinds = {f.name: f.type for f in fields(kind) if f.name != "path"}
    if data.keys() != {name, *kinds} or not isinstance(data[name], str):
        raise GatoError(f"{where}: {name} takes the path of a leaf and {', '.join(kinds) or 'nothing else'}")
    for key, declared in kinds.items():
        number = float if "float" in str(declared) else int
        if not isinstance(data[key], list | tuple) or any(type(item) not in (int, number) for item in data[key]):
            raise GatoError(f"{where}: {key} is {data[key]!r:.80}, not a list of type {number.__name__}")
        try:
            finite = bool(np.isfinite(np.array(data[key], np.float64)).all())
        except OverflowError:  # an integer beyond the range of float64
            finite = False
        if not finite:
            raise GatoError(f"{where}: {key} has a number that is not finite")
    step: AnyStep = kind(data[name], **{key: tuple(data[key]) for key in kinds})
    return step
