"""Strict JSON: limits on size, depth and digits before anything is allocated, checked types, and a digest in each file.

    parse('{"a": [1, 2]}')                            {"a": [1, 2]}, or ValueError
    with_digest({"a": 1})                             b'{"digest": "...", "a": 1}'
    checked_digest(b'{"digest": "...", "a": 1}')      {"a": 1}, or ValueError
    record(Point, {"x": 1, "y": 2.5})                 Point(x=1.0, y=2.5), or ValueError

All JSON that comes from a file or from a user passes through `parse`.
"""

import hashlib
import json
import math
import re
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

MOST_BYTES = 2**27
MOST_ENTRIES = 2**23
MOST_DEPTH = 200
MOST_DIGITS = 400
DIGEST = "digest"
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

Record = TypeVar("Record")


def parse(text: bytes | str, *, most: int = MOST_BYTES, entries: int = MOST_ENTRIES, finite: bool = True) -> Any:
    """Decode JSON text of bounded size, depth and number of entries.

    Args:
        text: a string, or UTF-8 bytes.
        most: largest number of bytes.
        entries: largest number of values.
        finite: true to refuse NaN, Infinity and numbers beyond float64.

    Raises:
        ValueError: not JSON, beyond a limit, or an object with a duplicate key.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > most:
        raise ValueError(f"{len(data):,} bytes of JSON, more than {most:,}")
    _check_structure(data, entries)
    constant = _refuse_constant if finite else float
    number = _finite if finite else float
    try:
        return json.loads(
            data.decode("utf-8", "surrogatepass" if isinstance(text, str) else "strict"),
            object_pairs_hook=_object, parse_int=_whole, parse_float=number, parse_constant=constant,
        )  # fmt: skip
    except RecursionError:  # of a caller that is itself deep
        raise ValueError("JSON that is nested too deeply") from None


def _check_structure(data: bytes, entries: int) -> None:
    """Raise ValueError for too many values or too deep a nesting; strings are stripped only if the text needs it."""
    if data.count(b",") < entries and data.count(b"[") + data.count(b"{") <= MOST_DEPTH:
        return
    bare = STRING.sub(b"", data)
    if bare.count(b",") >= entries:
        raise ValueError(f"more than {entries:,} values")
    array = np.frombuffer(bare, np.uint8)
    steps = np.isin(array, (0x5B, 0x7B)).astype(np.int8) - np.isin(array, (0x5D, 0x7D)).astype(np.int8)
    if np.cumsum(steps, dtype=np.int64).max(initial=0) > MOST_DEPTH:
        raise ValueError(f"JSON that is nested more than {MOST_DEPTH} deep")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits:.40}, which is beyond float64")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("an object that has a key twice")
    return entries


def digest(data: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of plain data; raises ValueError for NaN and infinite numbers."""
    text = json.dumps(json.loads(json.dumps(data, allow_nan=False)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def with_digest(data: Mapping[str, Any], indent: int | None = None, *, sort_keys: bool = False) -> bytes:
    """JSON text of an object that begins with its digest; equal data give equal bytes."""
    plain = json.loads(json.dumps(data, sort_keys=sort_keys, allow_nan=False))
    return f"{json.dumps({DIGEST: digest(data), **plain}, indent=indent)}\n".encode()


def checked_digest(text: bytes) -> dict[str, Any]:
    """Read the result of `with_digest`, or a JSON object without a digest.

    Raises:
        ValueError: not a JSON object, or it does not match its digest.
    """
    return without_digest(parse(text))


def without_digest(data: Any) -> dict[str, Any]:
    """Check the digest of an object, if it has one, and remove it; raises ValueError as `checked_digest`."""
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if DIGEST in data:
        sound = data.pop(DIGEST) == digest(data)
    else:  # written without a digest, or the digest's key is damaged
        hashes = [key for key, value in data.items() if isinstance(value, str) and len(value) == 64]
        sound = not any(data[key] == digest({k: v for k, v in data.items() if k != key}) for key in hashes)
    if not sound:
        raise ValueError(f"it does not match its {DIGEST}; after a change by hand, delete that entry")
    return data


def record(kind: type[Record], data: Any) -> Record:
    """Make a dataclass from a JSON object whose values have the types of its fields.

    Raises:
        ValueError: an unknown or missing key, or a value of another type; the message names the key.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{data!r:.80} instead of an object")
    hints, known = get_type_hints(kind), {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise ValueError(f"unknown key {key!r:.80}")
    for name, each in known.items():
        if name not in data and each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"no {name}")
    return kind(**{key: typed(value, hints[key], key) for key, value in data.items()})


def typed(value: Any, kind: Any, name: str) -> Any:
    """Convert a JSON value to a type such as `float`, `str | None`, `dict[str, int]` or `tuple[float, ...]`.

    Raises:
        ValueError: the value has another type; the message names `name`.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or type(value) is kind or (origin is Literal and value in inner):
        return value
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if origin in (Union, types.UnionType):
        return _either(value, inner, name)
    if origin is dict and isinstance(value, dict):
        return {key: typed(entry, inner[1], f"{name} {key!r:.80}") for key, entry in value.items()}
    if origin in (list, tuple) and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if origin is list or inner[-1] is Ellipsis else list(inner)
        if len(value) != len(kinds):
            raise ValueError(f"{name} has {len(value)} values instead of {len(kinds)}")
        return origin(typed(entry, one, name) for entry, one in zip(value, kinds, strict=True))
    raise ValueError(f"{name} is {value!r:.80}, not {getattr(kind, '__name__', kind)}")


def _either(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    for kind in kinds:
        with suppress(ValueError):
            return typed(value, kind, name)
    raise ValueError(f"{name} is {value!r:.80}, not {' or '.join(getattr(one, '__name__', str(one)) for one in kinds)}")
