"""An episode as arrays in memory, as the arrays of a file, and as the bytes of a file.

    observations  o0 o1 ... oT    T + 1 raw observations, the last one after the last action
    actions          a1 ... aT    executed actions
    labels           l1 ... lT    the expert's actions, if others were executed
    rewards          r1 ... rT

The bytes contain no time, host or path, so equal episodes are equal files.
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
ABOUT: dict[str, Any] = {  # fields that are not arrays, and their types
    "terminated": bool, "truncated": bool, "success": bool | None, "seed": int, "provenance": dict[str, Any]
}  # fmt: skip


class EpisodeStats(NamedTuple):
    """Number of steps, return, success and noise level of an episode; None for an unknown success or level.

    `lost` is True if the episode ends where its expert had no plan.
    """

    steps: int
    total: float
    success: bool | None
    noise: float | None
    lost: bool = False


@dataclass(frozen=True, eq=False)
class Episode:
    """Arrays of one episode of an environment.

    Attributes:
        observations: leaf path -> array [T + 1, ...] of the observation space's dtype.
        actions: leaf path -> array [T, ...], executed actions.
        labels: leaf path -> array [T, ...], the expert's actions; None if they are the executed ones.
        rewards: float64 [T].
        terminated: true if the last step was terminal.
        truncated: true if the episode was cut off, usually by a time limit.
        success: true if any step reported success; None if the environment reports none.
        seed: seed of the environment's reset.
        provenance: JSON data; the actor, the environment and the versions of packages.
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
        """Undiscounted return."""
        return float(self.rewards.sum())

    @property
    def stats(self) -> EpisodeStats:
        """Length, return, success, noise, and whether the expert was lost."""
        about = self.provenance
        return EpisodeStats(len(self), self.total, self.success, about.get("noise"), about.get("lost") is True)

    @property
    def targets(self) -> Columns:
        """Training targets: the labels, or the executed actions if there are none."""
        return self.actions if self.labels is None else self.labels

    @property
    def size(self) -> int:
        """Size of all arrays in memory, bytes."""
        return self.rewards.nbytes + sum(map(raw_bytes, self._groups().values()))

    def encode(self) -> Encoded:
        """Encode all arrays as those of a file."""
        arrays: Arrays = {"rewards": np.ascontiguousarray(self.rewards, np.float64)}
        grids: Grids = {}
        for group, columns in self._groups().items():
            more, shapes = encode(group, columns)
            arrays |= more
            grids |= shapes
        about = {key: getattr(self, key) for key in ABOUT}
        return Encoded(dict(sorted(arrays.items())), grids, about, self.size)

    def to_bytes(self) -> bytes:
        """Serialise as safetensors with one metadata entry of canonical JSON; equal episodes give equal bytes."""
        arrays, grids, about, _ = self.encode()
        about |= {"format": FORMAT, "grids": grids}
        about["checksum"] = checksum(arrays, zlib.crc32(canonical(about).encode()))
        return save(arrays, {"gato": canonical(about)})

    def _groups(self) -> dict[str, Columns]:
        groups = {"observations": self.observations, "actions": self.actions}
        return groups if self.labels is None else groups | {"labels": self.labels}

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the result of `to_bytes`; arrays are read-only views of `data`.

        Raises:
            GatoError: the bytes are truncated, damaged, no episode, or of another format.
        """
        try:
            about = parse_header(data, len(data)).about or {}
            arrays = load(data)
            if about["format"] != FORMAT:
                raise GatoError(
                    f"format {about['format']}, and this version reads {FORMAT}: {_way_out(about['format'])}"
                )
            if about.pop("checksum") != checksum(arrays, zlib.crc32(canonical(about).encode())):
                raise GatoError("damaged: it does not match its checksum")
            checked = {key: typed(about[key], kind, key) for key, kind in ABOUT.items()}
            typed(checked["provenance"].get("noise"), float | None, "noise")
            return cls.decode(arrays, about["grids"], checked)
        except (SafetensorError, AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise GatoError(f"truncated or damaged, or no episode at all ({one_line(error)})") from error

    @classmethod
    def decode(cls, arrays: Mapping[str, NDArray[Any]], grids: Mapping[str, Any], about: Mapping[str, Any]) -> Self:
        """Decode the result of `encode`; numeric arrays are not copied.

        Raises:
            GatoError: arrays have different numbers of rows.
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


def _way_out(version: Any) -> str:
    """Advice for a file of another format."""
    return "upgrade gato-agent" if isinstance(version, int) and version > FORMAT else "collect it again"
