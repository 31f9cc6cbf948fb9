"""Encoding of columns as arrays of a file: numbers raw, so that they can be mapped; grids and texts compressed.

observations/state        float32 [T + 1, 39]     raw
observations.grid/image   uint8 [bytes]           zstd of [T + 1, 210, 160, 3]
observations.text/mission uint8 [bytes]           zstd of a JSON list of T + 1 strings
"""

import json
import math
import threading
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from gato_agent.envs.io.strict_json import parse, typed
from gato_agent.envs.spaces.flatten import Columns

Arrays = dict[str, NDArray[Any]]
Grids = dict[str, list[Any]]
"""Name of a compressed array -> [dtype, shape of a row]."""

TEXTS = json.JSONEncoder(separators=(",", ":"))
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class _Zstd(threading.local):
    """Compressor and decompressor of one thread; making them takes longer than compressing a small column."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=3).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


class Encoded(NamedTuple):
    """An episode as the arrays of a file.

    Attributes:
        arrays: arrays by name, in alphabetical order.
        grids: dtype and row shape of the compressed grids.
        about: terminated, truncated, success, seed, provenance.
        size: size of the episode in memory, bytes.
    """

    arrays: Arrays
    grids: Grids
    about: dict[str, Any]
    size: int

    @property
    def seed(self) -> int:
        """Seed of the episode."""
        return int(self.about["seed"])

    @property
    def nbytes(self) -> int:
        """Size of the arrays, bytes."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def kinds(self) -> list[tuple[str, Any, tuple[int, ...]]]:
        """Name, dtype and shape of every array."""
        return [(name, array.dtype, array.shape) for name, array in self.arrays.items()]


CELLS = ("bool", "int8", "uint8")  # dtypes of grids
MOST_TEXT = 2**30  # bytes of one text column of an episode
MOST_GRID = 2**34  # bytes of one grid column
MOST_TIMES = 2**15  # largest compression ratio of zstd: a block of at most 2**17 bytes takes at least 4


def encode(group: str, columns: Columns) -> tuple[Arrays, Grids]:
    """Encode the columns of a group (observations, actions, labels) as named arrays."""
    arrays: Arrays = {}
    grids: Grids = {}
    for path, column in columns.items():
        if column.dtype == object:
            arrays[f"{group}.text/{path}"] = _compressed(TEXTS.encode(column.tolist()).encode())
        elif column.ndim >= 3 and column.dtype.itemsize == 1:  # rows of images, or of cells
            name = f"{group}.grid/{path}"
            arrays[name] = _compressed(np.ascontiguousarray(column).data)
            grids[name] = [str(column.dtype), list(column.shape[1:])]
        else:
            arrays[f"{group}/{path}"] = np.ascontiguousarray(column)
    return arrays, grids


def decode(group: str, arrays: Mapping[str, NDArray[Any]], grids: Mapping[str, Any], rows: int) -> Columns:
    """Decode the columns of a group, of `rows` rows; raw arrays are returned without a copy.

    Raises:
        ValueError: a compressed array is damaged, or has another size.
    """
    columns: Columns = {}
    for name, array in arrays.items():
        kind, _, path = name.partition("/")
        if kind == group:
            columns[path] = array
        elif kind == f"{group}.text":
            texts = parse(_decompressed(array, MOST_TEXT), most=MOST_TEXT, entries=rows + 1)
            if not isinstance(texts, list) or not all(type(text) is str for text in texts):
                raise ValueError("a column of texts with other values")
            columns[path] = np.empty(len(texts), dtype=object)
            columns[path][:] = texts
        elif kind == f"{group}.grid":
            dtype, shape = typed(grids[name], tuple[str, list[int]], name)
            if dtype not in CELLS:
                raise ValueError(f"{name} is of {dtype!r:.80}")
            size = rows * math.prod(shape)
            columns[path] = np.frombuffer(_decompressed(array, min(size, MOST_GRID)), dtype)
            columns[path] = columns[path].reshape(-1 if size else rows, *shape)  # rows of no elements
    return columns


def checksum(arrays: Mapping[str, NDArray[Any]], start: int = 0) -> int:
    """CRC-32 over names, dtypes, shapes and bytes, in the order of names; safetensors detects only truncation."""
    crc = start
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(array.data, zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), crc))
    return crc


def canonical(value: Any) -> str:
    """Canonical JSON of a value; raises ValueError for NaN and infinite numbers."""
    return CANONICAL.encode(value)


def _compressed(data: Any) -> NDArray[np.uint8]:
    return np.frombuffer(_zstd.compress(data), np.uint8)


def _decompressed(array: NDArray[np.uint8], most: int) -> bytes:
    """Decompress at most `most` bytes; raises ValueError if the declared size is larger or impossible."""
    try:
        size = zstandard.frame_content_size(array.data)
        if not 0 <= size <= min(most, MOST_TIMES * len(array)):
            raise ValueError(f"a compressed column of {size} bytes")
        return _zstd.decompress(array.data)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def raw_bytes(columns: Columns) -> int:
    """Size of columns in memory, bytes; a text counts one byte per character."""
    return sum(
        sum(map(len, column)) if column.dtype == object else math.prod(column.shape) * column.itemsize
        for column in columns.values()
    )
