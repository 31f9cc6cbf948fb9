"""Shards: memory-mapped files of many episodes of one task, each of which is slices of the file's arrays.

    rewards                  float64 [sum of T]             all episodes, one after the other
    observations/state       float32 [sum of T + 1, 39]
    observations.grid/image  uint8 [sum of bytes]           one compressed piece per episode
    ends.rewards, ends.*     int64 [episodes]               end of each episode's rows or bytes in each array
    table.seed, table.*      [episodes]                     seed, size, crc, terminated, truncated, success, provenance

Equal episodes give equal bytes. The table's checksum is verified when a shard is mapped, an episode's when it is read.
"""

import json
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from gato_agent.envs.errors import GatoError
from gato_agent.envs.files import open_own
from gato_agent.envs.io.strict_json import typed
from gato_agent.envs.io.tensor_file import parse_header
from gato_agent.rollouts.storage.compression import Arrays, Encoded, canonical, checksum
from gato_agent.rollouts.storage.episode import Episode, EpisodeStats

FORMAT = 1
TABLE = ("seed", "size", "crc", "terminated", "truncated", "success", "provenance")
SMALL = 2**20  # bytes; smaller files are read instead of mapped, since a map takes a file descriptor
WAY_OUT = "delete it and repeat the `gato-agent collect` command: it makes exactly what is missing"
DTYPES = {
    "BOOL": "?", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def joined(episodes: Sequence[Encoded]) -> bytes:
    """Join episodes, in ascending order of seeds, into the bytes of one shard.

    Raises:
        GatoError: columns of the same name differ in dtype or shape.
    """
    grids = {name: kind for each in episodes for name, kind in each.grids.items()}
    arrays: Arrays = {}
    for name in sorted({name for each in episodes for name in each.arrays}):
        parts = [each.arrays.get(name) for each in episodes]  # an episode may have no labels
        present = [part for part in parts if part is not None]
        if len({(part.dtype, part.shape[1:]) for part in present}) > 1:
            raise GatoError(f"episodes {episodes[0].seed} to {episodes[-1].seed} differ in dtype or shape of {name}")
        arrays[name] = np.concatenate(present)
        arrays[f"ends.{name}"] = np.cumsum([0 if part is None else len(part) for part in parts], dtype=np.int64)
    provenances = {id(each.about["provenance"]): each.about["provenance"] for each in episodes}  # often shared
    texts = {key: canonical(provenance) for key, provenance in provenances.items()}
    text_of = [texts[id(each.about["provenance"])] for each in episodes]
    index = {text: i for i, text in enumerate(dict.fromkeys(text_of))}
    successes = [each.about["success"] for each in episodes]
    table: Arrays = {
        "seed": np.array([each.seed for each in episodes], np.int64),
        "size": np.array([each.size for each in episodes], np.int64),
        "crc": np.array([_crc(each.arrays) for each in episodes], np.uint32),
        "terminated": np.array([each.about["terminated"] for each in episodes], np.bool_),
        "truncated": np.array([each.about["truncated"] for each in episodes], np.bool_),
        "success": np.array([-1 if success is None else success for success in successes], np.int8),
        "provenance": np.array([index[text] for text in text_of], np.int32),
    }
    arrays |= {f"table.{name}": array for name, array in table.items()}
    about = {"format": FORMAT, "grids": grids, "provenance": [json.loads(text) for text in index]}
    about["checksum"] = _table_checksum(arrays, about)
    return save(arrays, {"gato": canonical(about)})


def _crc(arrays: Arrays) -> int:
    """CRC-32 over the bytes of an episode's arrays, in the order of their names."""
    crc = 0
    for _, array in sorted(arrays.items()):
        crc = zlib.crc32(array.data, crc)
    return crc


def _table_checksum(arrays: Arrays, about: dict[str, Any]) -> int:
    table = {name: array for name, array in arrays.items() if name.startswith(("table.", "ends."))}
    return checksum(table, zlib.crc32(canonical(about).encode()))


class Shard:
    """A mapped shard, whose episodes' arrays are read-only views of the file.

    Attributes:
        path: path of the file.
        seeds: seeds of its episodes, ascending.
        sizes: size of each episode in memory, bytes.
    """

    def __init__(self, path: Path, joined_bytes: bytes | None = None) -> None:
        """Map the file, or use the bytes that will be written to it, and verify the table.

        Raises:
            GatoError: truncated, damaged, or no shard.
        """
        self.path, self._inode = path, 0
        try:
            if joined_bytes is None:
                with open_own(path) as file:
                    self._inode = os.fstat(file.fileno()).st_ino
                    small = os.fstat(file.fileno()).st_size < SMALL
                    arrays, about = open_arrays(
                        file.read() if small else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    )
            else:
                arrays, about = open_arrays(joined_bytes)
            if about["format"] != FORMAT:
                raise GatoError(f"format {about['format']!r:.80}, and this version reads {FORMAT}: upgrade gato-agent")
            if about.pop("checksum") != _table_checksum(arrays, about):
                raise GatoError("its table does not match its checksum")
            self._grids = typed(about["grids"], dict[str, list[Any]], "grids")
            self._provenance = typed(about["provenance"], list[dict[str, Any]], "provenance")
            for each in self._provenance:
                typed(each.get("noise"), float | None, "noise")
            self._table = {name.removeprefix("table."): a for name, a in arrays.items() if name.startswith("table.")}
            self.seeds: list[int] = self._table["seed"].tolist()
            self.sizes: list[int] = self._table["size"].tolist()
            self._columns = _columns(arrays, len(self.seeds))
            _check_table(self._table, len(self._provenance))
        except (GatoError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise GatoError(f"{path} is truncated or damaged, or no shard at all ({error}); {WAY_OUT}") from error

    def is_current(self) -> bool:
        """True if the file has not been replaced since it was opened."""
        return self.path.exists() and self.path.stat().st_ino == self._inode

    @cached_property
    def rows(self) -> dict[int, int]:
        """Seed -> index in the shard."""
        return {seed: i for i, seed in enumerate(self.seeds)}

    def read(self, seed: int) -> Episode:
        """Read one episode; raises GatoError if it is damaged."""
        encoded = self.encoded(seed)
        try:
            return Episode.decode(encoded.arrays, encoded.grids, encoded.about)
        except (GatoError, LookupError, TypeError, ValueError) as error:
            raise self._damaged(seed, error) from error

    def encoded(self, seed: int) -> Encoded:
        """Encoded arrays of one episode; raises GatoError if they are damaged."""
        i, crc = self.rows[seed], 0
        arrays: Arrays = {}
        for name, column, ends in self._columns:
            if ends[i + 1] > ends[i]:
                arrays[name] = part = column[ends[i] : ends[i + 1]]
                crc = zlib.crc32(part.data, crc)
        if crc != self._table["crc"][i]:
            raise self._damaged(seed, "it does not match its checksum")
        try:
            return Encoded(arrays, self._grids, self._about(i), self.sizes[i])
        except (LookupError, TypeError) as error:
            raise self._damaged(seed, error) from error

    def _damaged(self, seed: int, why: object) -> GatoError:
        return GatoError(f"{self.path}: episode {seed} is damaged ({why}); {WAY_OUT}")

    def stats(self, seed: int) -> EpisodeStats:
        """Length, return, success, noise and `lost` of one episode, without reading the rest of it."""
        i = self.rows[seed]
        (ends,) = (ends for name, _, ends in self._columns if name == "rewards")
        (rewards,) = (column for name, column, _ in self._columns if name == "rewards")
        about = self._about(i)
        part, provenance = rewards[ends[i] : ends[i + 1]], about["provenance"]
        lost = provenance.get("lost") is True
        return EpisodeStats(len(part), float(part.sum()), about["success"], provenance.get("noise"), lost)

    def _about(self, i: int) -> dict[str, Any]:
        success = int(self._table["success"][i])
        return {
            "terminated": bool(self._table["terminated"][i]),
            "truncated": bool(self._table["truncated"][i]),
            "success": None if success < 0 else bool(success),
            "seed": self.seeds[i],
            "provenance": self._provenance[self._table["provenance"][i]],
        }

    def __iter__(self) -> Iterator[Episode]:
        return map(self.read, self.seeds)


def _columns(arrays: Mapping[str, NDArray[Any]], episodes: int) -> list[tuple[str, NDArray[Any], list[int]]]:
    """Name, array and row bounds of each episode for every column; raises ValueError for invalid bounds."""
    names = {name for name in arrays if not name.startswith(("table.", "ends."))}
    if names != {name.removeprefix("ends.") for name in arrays if name.startswith("ends.")} or "rewards" not in names:
        raise ValueError("its columns and their ends do not match")
    columns = []
    for name in sorted(names):
        ends = [0, *arrays[f"ends.{name}"].tolist()]
        if len(ends) != episodes + 1 or ends != sorted(ends) or ends[-1] != len(arrays[name]):
            raise ValueError(f"{name} is not divided into {episodes} episodes")
        columns.append((name, arrays[name], ends))
    return columns


def _check_table(table: Mapping[str, NDArray[Any]], provenances: int) -> None:
    """Raise ValueError for a table with columns of other lengths, duplicate seeds, or an unknown provenance."""
    seeds, places = table["seed"].tolist(), table["provenance"].tolist()
    if any(table[name].shape != (len(seeds),) for name in TABLE) or sorted(set(seeds)) != seeds:
        raise ValueError("its table does not list each of its episodes once")
    if not all(0 <= place < provenances for place in places):
        raise ValueError("its table names a provenance that does not exist")


def pieces_of(arrays: Mapping[str, NDArray[Any]], about: dict[str, Any]) -> Iterator[bytes | memoryview]:
    """Pieces of a safetensors file without copies of the arrays; `open_arrays` is the inverse."""
    names = {np.dtype(kind): name for name, kind in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"gato": json.dumps(about)}}
    end = 0
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))  # each at a multiple of its size
    for name, array in ordered:
        offsets = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, array in ordered:
        yield np.ascontiguousarray(array).data.cast("B") if array.size else b""


def open_arrays(data: mmap.mmap | bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays of a safetensors file as views of it, and its metadata; raises ValueError or KeyError if damaged."""
    header = parse_header(data, len(data))
    if header.about is None:
        raise ValueError("it has no 'gato' entry")
    arrays = {}
    for name, entry in header.entries.items():
        dtype = np.dtype(DTYPES[entry.dtype])
        count = (entry.end - entry.begin) // dtype.itemsize
        # np.frombuffer refuses an empty array at the end of its buffer.
        array = np.frombuffer(data, dtype, count, header.start + entry.begin) if count else np.zeros(0, dtype)
        arrays[name] = array.reshape(entry.shape)
    return arrays, header.about
