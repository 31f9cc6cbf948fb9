"""The gate for what a file says: only plain names are used, and all else has to come from the user.

A name is plain if it needs nothing but what is installed or lies below the current folder: an environment's registered
id, an expert by kind or by file, a relative path, numbers and words as arguments. What would import a module, reach the
network or lead to another folder is refused, and the message says which option gives it.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import UsageError

MOST = 1000  # characters of a name or path
DEPTH = 8  # of arguments inside arguments
EXPERTS = ("catalogue", "scripted", "random")  # kinds that are at hand; `train` would take hours, and write files
ENV_ID = re.compile(r"(?:[\w-]+/)*(?!\.+$)[\w.-]+")  # as Gymnasium has them, but no module, and no "." or ".."
NAME = re.compile(r"(?!\.+$)[\w.%+-]+")  # of a file or folder
WORD = re.compile(r"[\w +#*<>=,()-]*|[-+]?\d+\.\d*")  # no dot, as in module.name; no colon, slash or tilde


class NotPlain(UsageError):
    """A name in a file that the file may not give."""


def env_id(value: Any, file: Path | str, way_out: str) -> str:
    """An environment's registered id.

    Args:
        value: what the file says.
        file: which says it, for the message.
        way_out: what the user can do instead, for the message.

    Raises:
        NotPlain: it names a module to import or another folder, or is no id at all.
    """
    if not is_env_id(value):
        raise _refused(file, "env_id", value, way_out)
    return str(value)


def is_env_id(value: Any) -> bool:
    """True if a value from a file may be taken for an environment's id: it names no module, and no other folder."""
    return isinstance(value, str) and len(value) <= MOST and ENV_ID.fullmatch(value) is not None


def name(value: Any, file: Path | str, way_out: str, allowed: Collection[str] | re.Pattern[str] = NAME) -> str:
    """A name without any path, one of those that are `allowed`; arguments and errors as of `env_id`."""
    known = isinstance(value, str) and len(value) <= MOST
    if not known or not (allowed.fullmatch(value) if isinstance(allowed, re.Pattern) else value in allowed):
        raise _refused(file, "the name", value, way_out)
    return str(value)


def path(value: Any, file: Path | str, way_out: str) -> Path:
    """A relative path that does not lead upwards; arguments and errors as of `env_id`."""
    if not _is_path(value):
        raise _refused(file, "the path", value, way_out)
    return Path(value)


def expert(value: Any, file: Path | str, way_out: str) -> str:
    """An expert: a kind that is at hand, or the relative path of its file; arguments and errors as of `env_id`."""
    if value not in EXPERTS and (value == "train" or not _is_path(value)):
        raise _refused(file, "the expert", value, way_out)
    return str(value)


def checkpoint(value: Any, file: Path | str, way_out: str) -> str | None:
    """A checkpoint: None for the shipped weights, or a relative path; arguments and errors as of `env_id`."""
    if value is not None and not _is_path(value):
        raise _refused(file, "the checkpoint", value, way_out)
    return value if value is None else str(value)


def env_kwargs(value: Any, file: Path | str, way_out: str) -> dict[str, Any]:
    """Arguments of an environment: numbers, words, lists and objects of them; arguments and errors as of `env_id`.

    A text with a path, a module or an address is refused, because environments may open or import what they are given.
    """
    if not isinstance(value, Mapping) or not _is_plain(value, DEPTH) or value.get("render_mode") == "human":
        raise _refused(file, "env_kwargs", value, way_out)
    return dict(value)


def _is_path(value: Any) -> bool:
    """True for a relative path without "..", a home folder, or the colon of a module, an address or the hub."""
    if not isinstance(value, str) or not 0 < len(value) <= MOST or not value.isprintable():
        return False
    return ":" not in value and not value.startswith(("/", "~")) and ".." not in value.split("/")


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, Mapping):
        return depth > 0 and all(_is_plain(key, 0) and _is_plain(each, depth - 1) for key, each in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(each, depth - 1) for each in value)
    if isinstance(value, str):
        return len(value) <= MOST and WORD.fullmatch(value) is not None
    return value is None or isinstance(value, bool | int | float)


def _refused(file: Path | str, what: str, value: Any, way_out: str) -> NotPlain:
    reason = " (to import a module, or from the network)" if isinstance(value, str) and ":" in value else ""
    return NotPlain(f"{file} has {what} {value!r:.80}{reason}, which no file may name: {way_out}")
