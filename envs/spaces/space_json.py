"""Lossless conversion of spaces to strict JSON and back; the random state of a space is left out.

    Box(-inf, [1, inf])  <->  {"kind": "Box", "shape": [2], "dtype": "float32", "low": "-inf", "high": [1.0, "inf"]}

Lists are in row-major order, and are one number where all elements are equal.
"""

import math
from typing import Any

from gymnasium.spaces import Dict, Space, Tuple

from gato_agent.envs.errors import SpaceError, one_line
from gato_agent.envs.spaces.json_arrays import MAX_ELEMENTS
from gato_agent.envs.spaces.leaf_kind import LeafKind
from gato_agent.envs.spaces.leaf_table import LEAF_KINDS, unsupported
from gato_agent.envs.spaces.paths import keys_of, pointer, space_error


def space_to_json(space: Space[Any], keys: tuple[str | int, ...] = ()) -> dict[str, Any]:
    """Describe a space in strict JSON, from which `space_from_json` rebuilds it.

    Args:
        space: any nesting of Dict, Tuple and leaf spaces.
        keys: keys and indices that lead to it in a larger space, for errors.

    Raises:
        SpaceError: an unsupported kind of space or subclass, or more than MAX_ELEMENTS elements.
    """
    json = _to_json(space, keys)
    if (count := _elements(json)) > MAX_ELEMENTS:
        raise space_error(pointer(keys), f"{count:,} elements, and {MAX_ELEMENTS:,} can be described")
    return json


def _to_json(space: Space[Any], keys: tuple[str | int, ...]) -> dict[str, Any]:
    json: dict[str, Any] = {"kind": type(space).__name__}
    if type(space) is Tuple:
        return json | {"spaces": [_to_json(child, (*keys, i)) for i, child in enumerate(space.spaces)]}
    if type(space) is Dict:  # pairs, since canonical JSON would sort the keys of an object
        return json | {"spaces": [[k, _to_json(space.spaces[k], (*keys, k))] for k in keys_of(space, keys)]}
    kind = LEAF_KINDS.get(type(space))  # a subclass could not be rebuilt
    described = None if kind is None else kind.to_json(space)
    if described is None:
        raise unsupported(space, pointer(keys))
    return json | described


def space_from_json(json: Any) -> Space[Any]:
    """Rebuild a space from `space_to_json`. Untrusted input is checked and never executed.

    Raises:
        SpaceError: the JSON describes no space.
    """
    try:
        if (count := _elements(json)) > MAX_ELEMENTS:
            raise ValueError(f"{count:,} elements")
        return _from_json(json)
    except (
        KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, AssertionError
    ) as error:  # fmt: skip
        raise SpaceError(f"not the description of a space ({one_line(error)}): was the file changed by hand?") from None


def _elements(json: dict[str, Any]) -> int:
    """Number of elements of all leaves, computed before any is allocated."""
    kind = json["kind"]
    if kind in ("Dict", "Tuple"):
        return sum(_elements(child[1] if kind == "Dict" else child) for child in json["spaces"])
    return math.prod(_leaf_kind(kind).json_shape(json))


def _from_json(json: dict[str, Any]) -> Space[Any]:
    kind = json["kind"]
    if kind == "Tuple":
        return Tuple([_from_json(child) for child in json["spaces"]])
    if kind == "Dict":
        return Dict([(str(key), _from_json(child)) for key, child in json["spaces"]])
    space: Space[Any] = _leaf_kind(kind).from_json(json)
    return space


def _leaf_kind(name: Any) -> LeafKind[Any]:
    """Kind by its name in JSON; raises SpaceError if it is unknown."""
    for kind in LEAF_KINDS.values():
        if kind.space.__name__ == name:
            return kind
    raise SpaceError(f"spaces of kind {name!r:.80} are not supported: is the file from a newer version?")
