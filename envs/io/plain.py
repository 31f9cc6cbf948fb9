"""Checks of the names in untrusted files: only plain names are accepted, all others must come from the user.

A plain name refers to installed packages or to files below the current folder: a registered environment id, a kind of
expert or its file, a relative path, numbers and words as arguments. A name that would import a module, reach the
network or lead to another folder is refused; the message names the option to use instead.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import UsageError

MOST = 1000  # characters of a name or path
DEPTH = 8  # of nested arguments
EXPERTS = ("catalogue", "scripted", "random")  # installed kinds; `train` would take hours, and write files
ENV_ID = re.compile(r"(?:[\w-]+/)*(?!\.+$)[\w.-]+")  # Gymnasium's ids without a module, and no "." or ".."
NAME = re.compile(r"(?!\.+$)[\w.%+-]+")  # of a file or folder
WORD = re.compile(r"[\w +#*<>=,()-]*|[-+]?\d+\.\d*")  # no dot, as in module.name; no colon, slash or tilde


class NotPlain(UsageError):
    """A name in an untrusted file that is not plain."""


def env_id(value: Any, file: Path | str, way_out: str) -> str:
    """Check a registered environment id.

    Args:
        value: value in the file.
        file: the file, for the message.
        way_out: alternative for the user, for the message.

    Raises:
        NotPlain: the value names a module or another folder, or is no id.
    """
    if not is_env_id(value):
        raise _refused(file, "env_id", value, way_out)
    return str(value)


def is_env_id(value: Any) -> bool:
    """True if a value is a plain environment id, which names no module and no other folder."""
    return isinstance(value, str) and len(value) <= MOST and ENV_ID.fullmatch(value) is not None


def name(value: Any, file: Path | str, way_out: str, allowed: Collection[str] | re.Pattern[str] = NAME) -> str:
    """Check a name without a path that is among or matches `allowed`; other arguments and errors as in `env_id`."""
    is_name = isinstance(value, str) and len(value) <= MOST
    if not is_name or not (allowed.fullmatch(value) if isinstance(allowed, re.Pattern) else value in allowed):
        raise _refused(file, "the name", value, way_out)
    return str(value)


def path(value: Any, file: Path | str, way_out: str) -> Path:
    """Check a relative path without ".."; arguments and errors as in `env_id`."""
    if not _is_path(value):
        raise _refused(file, "the path", value, way_out)
    return Path(value)


def expert(value: Any, file: Path | str, way_out: str) -> str:
    """Check an expert: an installed kind, or the relative path of its file; arguments and errors as in `env_id`."""
    if value not in EXPERTS and (value == "train" or not _is_path(value)):
        raise _refused(file, "the expert", value, way_out)
    return str(value)


def checkpoint(value: Any, file: Path | str, way_out: str) -> str | None:
    """Check a checkpoint: None for the shipped weights, or a relative path; arguments and errors as in `env_id`."""
    if value is not None and not _is_path(value):
        raise _refused(file, "the checkpoint", value, way_out)
    return value if value is None else str(value)


def env_kwargs(value: Any, file: Path | str, way_out: str) -> dict[str, Any]:
    """Check an environment's arguments: numbers, words, lists and objects; arguments and errors as in `env_id`.

    A text with a path, a module or an address is refused, because environments may open or import it.
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
