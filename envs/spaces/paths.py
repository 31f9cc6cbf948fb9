"""Paths of leaves inside a nested space, and errors that name them."""

from typing import Any

from gymnasium.spaces import Dict

from gato_agent.envs.errors import SpaceError


def space_error(
    path: str, what: str, row: int | None = None, remedy: str = "", *, in_no_space: bool = False
) -> SpaceError:
    """Build the error for the leaf at `path`; the message starts with the path unless it is the root."""
    message = f"{path!r}: {what}" if path else what
    return SpaceError(message, key=path, row=row, remedy=remedy, in_no_space=in_no_space)


def pointer(keys: tuple[str | int, ...]) -> str:
    """Path of the leaf at these keys and indices: a JSON Pointer (RFC 6901) without its first "/"."""
    return "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def keys_of(space: Dict[Any], keys: tuple[str | int, ...]) -> list[str]:
    """Keys of a Dict in its own order; raises SpaceError if one is not a string.

    Args:
        space: the Dict.
        keys: keys and indices that lead to it, for the message.
    """
    for key in space.spaces:
        if not isinstance(key, str):
            raise space_error(pointer(keys), f"Dict key {key!r} is not a string: use strings as keys")
    return list(space.spaces)
