"""One episode as plain arrays, as those of a file, and as the bytes of a file of its own.

    observations  o0 o1 ... oT    T + 1 raw observations, the last one after the last action
    actions          a1 ... aT    what was executed
    labels           l1 ... lT    what the expert would have done, where noise was executed instead
    rewards          r1 ... rT

The bytes hold no time, host or path, so equal episodes are equal files.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.io.strict_json import typed
from gato_agent.envs.io.tensor_file import parse_header
from gato_agent.envs.spaces.flatten import Columns
from gato_agent.rollouts.storage.compression import (
    Arrays,
    Encoded,
    Grids,
    canonical,
    checksum,
    decode,
    encode,
    raw_bytes,
)

FORMAT = 2
ABOUT: dict[str, Any] = {  # what is not an array
    "terminated": bool, "truncated": bool, "success": bool | None, "seed": int, "provenance": dict[str, Any]
}  # fmt: skip


class EpisodeStats(NamedTuple):
    """What statistics are made of: steps, return, success, and the level of noise, None where it is not known."""

    steps: int
    total: float
    success: bool | None
    noise: float | None


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
    def stats(self) -> EpisodeStats:
        """Length, return, success and noise."""
        return EpisodeStats(len(self), self.total, self.success, self.provenance.get("noise"))

    @property
    def targets(self) -> Columns:
        """What to imitate: the labels, or the actions where no noise was executed."""
        return self.actions if self.labels is None else self.labels

    @property
    def size(self) -> int:
        """Bytes of all arrays in memory."""
        return self.rewards.nbytes + sum(map(raw_bytes, self._groups().values()))

    def encode(self) -> Encoded:
        """Turn all arrays into those of a file."""
        arrays: Arrays = {"rewards": np.ascontiguousarray(self.rewards, np.float64)}
        grids: Grids = {}
        for group, columns in self._groups().items():
            more, shapes = encode(group, columns)
            arrays |= more
            grids |= shapes
        about = {key: getattr(self, key) for key in ABOUT}
        return Encoded(dict(sorted(arrays.items())), grids, about, self.size)

    def to_bytes(self) -> bytes:
        """Serialise as safetensors with one metadata entry, canonical JSON; equal episodes give equal bytes."""
        arrays, grids, about, _ = self.encode()
        about |= {"format": FORMAT, "grids": grids}
        about["checksum"] = checksum(arrays, zlib.crc32(canonical(about).encode()))
        return save(arrays, {"gato": canonical(about)})

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
            about = parse_header(data, len(data)).about or {}
            arrays = load(data)
            if about["format"] != FORMAT:
                raise GatoError(f"format {about['format']}, and this version reads {FORMAT}: {_other(about['format'])}")
            if about.pop("checksum") != checksum(arrays, zlib.crc32(canonical(about).encode())):
                raise GatoError("damaged: it does not match its checksum")
            said = {key: typed(about[key], kind, key) for key, kind in ABOUT.items()}
            typed(said["provenance"].get("noise"), float | None, "noise")
            return cls.decode(arrays, about["grids"], said)
        except (SafetensorError, AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise GatoError(f"truncated or damaged, or no episode at all ({one_line(error)})") from error

    @classmethod
    def decode(cls, arrays: Mapping[str, NDArray[Any]], grids: Mapping[str, Any], about: Mapping[str, Any]) -> Self:
        """Make an episode of what `encode` gave and the rest; numeric arrays are passed on as they are.

        Raises:
            GatoError: arrays do not fit together.
            ValueError: a compressed array is damaged.
        """
        steps = len(arrays["rewards"])
        episode = cls(
            observations=decode("observations", arrays, grids, steps + 1),
            actions=decode("actions", arrays, grids, steps),
            labels=decode("labels", arrays, grids, steps) or None,
            rewards=arrays["rewards"],
            **about,
        )
        for group, columns in episode._groups().items():
            rows = len(episode) + (group == "observations")
            if not columns or any(len(column) != rows for column in columns.values()):
                raise GatoError(f"{group} do not have {rows} rows")
        return episode


def _other(version: Any) -> str:
    """What to do about a file of another format."""
    return "upgrade gato-agent" if isinstance(version, int) and version > FORMAT else "collect it again"
