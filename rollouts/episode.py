"""One episode as plain arrays, and as the bytes of one file.

    observations  o0 o1 ... oT    T + 1 raw observations, the last one after the last action
    actions          a1 ... aT    what was executed
    labels           l1 ... lT    what the expert would have done, where noise was executed instead
    rewards          r1 ... rT

The bytes hold no time, host or path, so equal episodes are equal files.
"""

import json
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gato_agent.envs.errors import GatoError
from gato_agent.envs.structure import Columns

FORMAT = 1
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Episode:
    """What happened in one environment between a reset and its end.

    Attributes:
        observations: leaf path -> array [T + 1, ...] of the observation space's dtype.
        actions: leaf path -> array [T, ...], as executed.
        labels: leaf path -> array [T, ...], the expert's own actions; None where they are the executed ones.
        rewards: float64 [T].
        terminated: the last step was terminal.
        truncated: the last step was cut off, usually by a time limit.
        success: whether any step reported success; None if the environment reports none.
        seed: what the environment was reset with.
        provenance: JSON; who acted, where, and in which versions.
    """

    observations: Columns
    actions: Columns
    labels: Columns | None
    rewards: NDArray[np.float64]
    terminated: bool
    truncated: bool
    success: bool | None
    seed: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def total(self) -> float:
        """The return: the sum of rewards."""
        return float(self.rewards.sum())

    @property
    def targets(self) -> Columns:
        """What to imitate: the labels, or the actions where no noise was executed."""
        return self.actions if self.labels is None else self.labels

    def to_bytes(self) -> bytes:
        """Serialise as safetensors with one metadata entry, canonical JSON; equal episodes give equal bytes."""
        arrays: Arrays = {"rewards": np.ascontiguousarray(self.rewards, np.float64)}
        for group, columns in self._groups().items():
            for path, column in columns.items():
                arrays |= _to_arrays(group, path, column)
        arrays = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
        about = {
            "format": FORMAT,
            "checksum": _checksum(arrays),
            "terminated": self.terminated,
            "truncated": self.truncated,
            "success": self.success,
            "seed": self.seed,
            "provenance": self.provenance,
        }
        return save(arrays, {"gato": json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False)})

    def _groups(self) -> dict[str, Columns]:
        groups = {"observations": self.observations, "actions": self.actions}
        return groups if self.labels is None else groups | {"labels": self.labels}

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote; arrays are views of `data`, read-only.

        Raises:
            GatoError: the bytes are truncated, damaged, or of another kind or version.
        """
        try:
            arrays = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["gato"])
            if about["format"] != FORMAT:
                raise GatoError(f"format {about['format']}, and this version reads {FORMAT}: upgrade gato-agent")
            if about["checksum"] != _checksum(arrays):
                raise GatoError("damaged: its arrays do not match their checksum")
            episode = cls(
                observations=_columns(arrays, "observations"),
                actions=_columns(arrays, "actions"),
                labels=_columns(arrays, "labels") or None,
                rewards=arrays["rewards"],
                **{key: about[key] for key in ("terminated", "truncated", "success", "seed", "provenance")},
            )
        except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise GatoError(f"truncated or damaged, or no episode at all ({error})") from error
        for group, columns in episode._groups().items():
            rows = len(episode) + (group == "observations")
            if not columns or any(len(column) != rows for column in columns.values()):
                raise GatoError(f"{group} do not have {rows} rows")
        return episode


def _columns(arrays: Arrays, group: str) -> Columns:
    """Collect the columns of one group; text is put together from its bytes and ends."""
    columns: Columns = {}
    for name, array in arrays.items():
        kind, _, path = name.partition("/")
        if kind == group:
            columns[path] = array
        elif kind == f"{group}.text":
            columns[path] = _text_from_arrays(array, arrays[f"{group}.ends/{path}"])
    return columns


def _to_arrays(group: str, path: str, column: NDArray[Any]) -> Arrays:
    """Name a column; strings become their UTF-8 bytes, uint8 [sum of lengths], and where each ends, int64 [rows]."""
    if column.dtype != object:
        return {f"{group}/{path}": column}
    encoded = [text.encode("utf-8", "surrogatepass") for text in column]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {f"{group}.text/{path}": np.frombuffer(b"".join(encoded), np.uint8), f"{group}.ends/{path}": ends}


def _text_from_arrays(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[Any]:
    joined = data.tobytes()
    column = np.empty(len(ends), dtype=object)
    column[:] = [joined[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise([0, *ends.tolist()])]
    return column


def _checksum(arrays: Arrays) -> int:
    """CRC-32 over names and bytes, in the order of names: safetensors itself notices only truncation."""
    crc = 0
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(name.encode(), crc))
    return crc
