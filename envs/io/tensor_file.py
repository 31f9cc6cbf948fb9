"""Headers of safetensors files, checked before any tensor is allocated.

    8 bytes: length n of the header | n bytes of JSON: dtype, shape and offsets of each tensor | the tensors' bytes

Sizes are compared with the length of the file: the tensors must fill it exactly, without gaps and overlaps.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gato_agent.envs.io.strict_json import parse, typed

BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4,
    "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
MOST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
MOST_AXES = 64


class Entry(NamedTuple):
    """Dtype and shape of a tensor, and its first and one past its last byte, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """Tensors of a file by name, the offset `start` of their bytes, and `about`, the entry "gato" of its metadata."""

    start: int
    entries: dict[str, Entry]
    about: dict[str, Any] | None


def read_header(path: Path) -> Header:
    """Read the header of a file; raises ValueError as `parse_header`, and OSError."""
    with path.open("rb") as file:
        size = path.stat().st_size
        length = _length(file.read(8), size)
        file.seek(0)
        return parse_header(file.read(8 + length), size)


def parse_header(data: Any, size: int) -> Header:
    """Parse the header at the beginning of a buffer.

    Args:
        data: bytes or mmap that begin with the header.
        size: size of the whole file in bytes.

    Raises:
        ValueError: not a safetensors file, truncated, or sizes that do not match the file.
    """
    start = 8 + _length(bytes(data[:8]), size)
    table = parse(bytes(data[8:start]), most=MOST_HEADER)
    if not isinstance(table, dict):
        raise ValueError("its header is no JSON object")
    metadata = typed(table.pop("__metadata__", {}), dict[str, str], "__metadata__")
    entries = {name: _entry(name, value) for name, value in table.items()}
    _check_places(entries, size - start)
    about = parse(metadata["gato"], most=MOST_HEADER) if "gato" in metadata else None
    if about is not None and not isinstance(about, dict):
        raise ValueError("its entry 'gato' is no JSON object")
    return Header(start, entries, about)


def _length(first: bytes, size: int) -> int:
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(size - 8, MOST_HEADER):
        raise ValueError("its header is longer than the file")
    return length


def _entry(name: str, value: Any) -> Entry:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if len(value) == 3:
            pass
        case _:
            raise ValueError(f"{name:.80} is described by {value!r:.80}")
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError(f"{name:.80} has shape {shape!r:.80} from {begin!r:.40} to {end!r:.40}")
    if dtype not in BYTES or len(shape) > MOST_AXES or end - begin != math.prod(shape) * BYTES[dtype]:
        raise ValueError(f"{name:.80} has {end - begin} bytes for shape {shape!r:.80} of {dtype:.20}")
    return Entry(dtype, tuple(shape), begin, end)


def _check_places(entries: Mapping[str, Entry], size: int) -> None:
    """Raise ValueError for gaps, overlaps, and missing or surplus bytes."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != end:
            raise ValueError(f"{name:.80} begins at {entry.begin} instead of {end}")
        end = entry.end
    if end != size:
        raise ValueError(f"its tensors take {end:,} bytes and the file has {size:,}")
