"""Table of leaf kinds by class of space, those of `leaf_kinds/` and those that a user registers."""

import importlib
import pkgutil
from typing import Any

from gymnasium.spaces import Space

from gato_agent.envs.errors import SpaceError
from gato_agent.envs.spaces import leaf_kinds
from gato_agent.envs.spaces.leaf_kind import LeafKind
from gato_agent.envs.spaces.paths import space_error


def shipped() -> list[LeafKind[Any]]:
    """The `KIND` of every module of `leaf_kinds`, by name of module."""
    names = (module.name for module in pkgutil.iter_modules(leaf_kinds.__path__))
    return [importlib.import_module(f"{leaf_kinds.__name__}.{name}").KIND for name in names]


LEAF_KINDS: dict[type[Space[Any]], LeafKind[Any]] = {kind.space: kind for kind in shipped()}


def register_leaf_kind(kind: LeafKind[Any]) -> None:
    """Add a kind of leaf space to the table, or replace the one of its class."""
    LEAF_KINDS[kind.space] = kind


def find_leaf_kind(space: Space[Any]) -> LeafKind[Any] | None:
    """Kind of a fundamental space, by its class or a base of it; None if it is unknown."""
    kind = LEAF_KINDS.get(type(space))
    if kind is not None:
        return kind
    return next((LEAF_KINDS[base] for base in type(space).__mro__ if base in LEAF_KINDS), None)


def leaf_kind(space: Space[Any], path: str = "") -> LeafKind[Any]:
    """Kind of a fundamental space; raises SpaceError naming the path if it is unknown."""
    kind = find_leaf_kind(space)
    if kind is None:
        raise unsupported(space, path)
    return kind


def unsupported(space: Space[Any], path: str) -> SpaceError:
    """Build the error for an unsupported kind of space."""
    *names, last = (kind.__name__ for kind in LEAF_KINDS)
    return space_error(
        path,
        f"{type(space).__name__} spaces are not supported: wrap the environment "
        "(gymnasium.wrappers.TransformObservation or TransformAction) so that it declares a plain "
        f"{', '.join(names)} or {last}",
    )
