"""Safe reader of the observation statistics of SB3's VecNormalize.

A `vecnormalize.pkl` is a pickle, which can call any function when it is loaded. Here every name becomes an inert
`Record` of its arguments, and only names that such files need are admitted. The statistics are then read from the
records.
"""

import hashlib
import io
import math
import pickle
import pickletools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.files import read_named
from gato_agent.envs.io.zip_file import read_members

MAX_BYTES = 2**26
MAX_STEPS = 2**20  # opcodes of a pickle; files of statistics have some hundred
DIGEST = "sha256.npy"  # member of an obs_norm.npz with the digest of the others
STATISTICS = ("obs_norm.npz", "vecnormalize.pkl", "vec_normalize.pkl")  # ours, rl-zoo's, and rl-zoo's on the hub
ADMITTED = re.compile(
    r"stable_baselines3\.common\.(vec_env\.vec_normalize\.VecNormalize|running_mean_std\.RunningMeanStd)"
    r"|gym(nasium)?\.spaces\.\w+\.\w+"  # the environment's spaces, and in them random number generators
    r"|numpy\.(ndarray|dtype|random\.\w+\.\w+)"
    r"|numpy\.(_core|core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
)


@dataclass(frozen=True)
class Normalizer:
    """Normalisation of observations as in VecNormalize.

    Attributes:
        mean: key -> float64 array of the observation's shape; the key is "" if the observation is no Dict.
        var: key -> variance, likewise.
        clip: bound on the magnitude of the result.
        eps: added to the variance.
    """

    mean: dict[str, NDArray[np.float64]]
    var: dict[str, NDArray[np.float64]]
    clip: float
    eps: float

    @classmethod
    def of(cls, envs: Any) -> Self | None:
        """Statistics of an SB3 VecNormalize; None if it normalises no observations."""
        if not envs.norm_obs:
            return None
        keyed = envs.obs_rms if isinstance(envs.obs_rms, dict) else {"": envs.obs_rms}
        mean, var = ({key: np.array(getattr(rms, name)) for key, rms in keyed.items()} for name in ("mean", "var"))
        return cls(mean, var, float(envs.clip_obs), float(envs.epsilon))

    def __call__(self, observation: Any) -> Any:
        """Normalise a batch [B, ...] or a dict of batches to float32; keys without statistics are unchanged."""
        if not isinstance(observation, dict):
            return self._normalize("", observation)
        return {key: self._normalize(key, obs) if key in self.mean else obs for key, obs in observation.items()}

    def _normalize(self, key: str, obs: NDArray[Any]) -> NDArray[np.float32]:
        scaled = (obs - self.mean[key]) / np.sqrt(self.var[key] + self.eps)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """The statistics as JSON data, without loss."""
        mean, var = ({key: array.tolist() for key, array in stats.items()} for stats in (self.mean, self.var))
        return {"mean": mean, "var": var, "clip": self.clip, "eps": self.eps}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read the result of `to_json`; raises ValueError, TypeError or LookupError for other data."""
        mean, var = (
            {key: np.asarray(values, np.float64) for key, values in data[name].items()} for name in ("mean", "var")
        )
        return _checked(mean, var, float(data["clip"]), float(data["eps"]))  # type: ignore[return-value]


def read_npz(path: Path) -> Normalizer:
    """Read `obs_norm.npz`: mean, var, clip, eps; for Dict observations <key>_mean and <key>_var.

    Raises:
        GatoError: the file is damaged or of another kind.
    """
    try:
        members = read_members(path)
        digest = members.pop(DIGEST, None)
        if digest is not None and _npy(digest).tobytes() != _digest(members):
            raise ValueError("it does not match its digest")
        arrays = {name.removesuffix(".npy"): _npy(member).astype(np.float64) for name, member in members.items()}
        clip, eps = float(arrays.pop("clip")), float(arrays.pop("eps"))
        mean, var = (
            {name[: -len(end)].removesuffix("_"): array for name, array in arrays.items() if name.endswith(end)}
            for end in ("mean", "var")
        )
        return _checked(mean, var, clip, eps)
    except Exception as error:  # from NumPy's reader of headers, which tokenizes them as Python
        raise _damaged(path, one_line(error)) from error


def write_npz(normalizer: Normalizer) -> bytes:
    """Contents of an `obs_norm.npz`, with their digest as an additional array."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"clip": np.float64(normalizer.clip), "eps": np.float64(normalizer.eps)}
    for end, stats in (("mean", normalizer.mean), ("var", normalizer.var)):
        arrays |= {f"{key}_{end}" if key else end: array for key, array in stats.items()}
    np.savez(buffer, **arrays)
    digest = _digest(read_members(buffer.getvalue()))
    whole = io.BytesIO()
    np.savez(whole, **arrays | {DIGEST.removesuffix(".npy"): np.frombuffer(digest, np.uint8)})
    return whole.getvalue()


def _digest(members: Mapping[str, bytes]) -> bytes:
    sha = hashlib.sha256()
    for name, data in sorted(members.items()):
        sha.update(f"{name} {len(data)} ".encode() + data)
    return sha.digest()


def _npy(data: bytes) -> NDArray[Any]:
    """Array of an npy file; raises ValueError if its size does not match its header."""
    file = io.BytesIO(data)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = read[np.lib.format.read_magic(file)](file)
    rest = data[file.tell() :]
    if dtype not in (np.float64, np.float32, np.uint8) or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"an array of shape {shape} of {dtype} in {len(rest)} bytes")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")


def read_pickle(path: Path) -> Normalizer | None:
    """Read SB3's `vecnormalize.pkl`; None if it normalises rewards only.

    Raises:
        GatoError: the file is damaged, or names something that no such file needs.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES} bytes")
        state = unpickled(read_named(path)).state
        if not state["norm_obs"]:
            return None
        keyed = state["obs_rms"] if isinstance(state["obs_rms"], dict) else {"": state["obs_rms"]}
        mean, var = ({str(key): array_of(rms.state[name]) for key, rms in keyed.items()} for name in ("mean", "var"))
        return _checked(mean, var, float(state["clip_obs"]), float(state["epsilon"]))
    except Exception as error:  # a damaged pickle raises nearly any exception
        raise _damaged(path, one_line(error)) from error


def unpickled(data: bytes) -> Any:
    """Contents of a pickle, with records in place of named objects.

    Raises:
        ValueError: lengths beyond the file, too many opcodes, or too large memo indices.
        Exception: of any type; a damaged pickle raises nearly any exception.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"over {MAX_BYTES} bytes")
    for step, (code, argument, _) in enumerate(pickletools.genops(data)):
        if step > MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS:,} steps")
        if "PUT" in code.name and isinstance(argument, int) and argument > len(data):
            raise ValueError(f"it asks for {argument:,} places in memory")
    return _Unpickler(io.BytesIO(data)).load()


def dtypes_in(data: bytes) -> list[str]:
    """Types, such as f8, of a pickled array or dict of arrays; raises GatoError for another pickle."""
    try:
        value = unpickled(data)
        arrays = [value[key] for key in sorted(value)] if isinstance(value, dict) else [value]
        return [_parts(array)[1].args[0] for array in arrays]
    except Exception as error:
        raise GatoError(f"a pickle that is no array ({one_line(error)})") from error


class Record:
    """Inert replacement of an admitted name, which stores its arguments and state."""

    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> Self:
        """Store the arguments, both for a call of the name and for a new object."""
        self = super().__new__(cls)
        self.args = args
        return self

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[Any]:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if not ADMITTED.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which observation statistics do not need")
        return type(name, (Record,), {})


def array_of(record: Record) -> NDArray[np.float64]:
    """Float array of the record of a pickled `numpy.ndarray`."""
    data, dtype, shape, order = _parts(record)
    kind = dtype.args[0]
    if kind not in ("f8", "f4"):
        raise ValueError(f"statistics of type {kind!r}")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"statistics in {type(data).__name__}")
    return np.frombuffer(bytes(data), f"{dtype.state[1]}{kind}").reshape(shape, order=order).astype(np.float64)


def bounds_of(record: Record) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bounds of the record of a pickled Box; raises any exception for other records."""
    return array_of(record.state["low"]), array_of(record.state["high"])


def _parts(record: Record) -> tuple[Any, Any, Any, Any]:
    """Bytes, dtype, shape and order of a pickled array, of protocols up to 5."""
    if type(record).__name__ == "_frombuffer":
        data, dtype, shape, order = record.args
        return data, dtype, shape, order
    _, shape, dtype, fortran, data = record.state
    return data, dtype, shape, "F" if fortran else "C"


def _checked(mean: Any, var: Any, clip: float, eps: float) -> Normalizer:
    """Make a Normalizer; raises ValueError for invalid statistics."""
    if not mean or {k: v.shape for k, v in mean.items()} != {k: v.shape for k, v in var.items()}:
        raise ValueError("means and variances do not match")
    if not all(np.isfinite(array).all() for array in (*mean.values(), *var.values())):
        raise ValueError("a mean or variance is not finite")
    if not clip > 0 or not 0 <= eps < math.inf or any(array.min(initial=0) + eps < 0 for array in var.values()):
        raise ValueError(f"clip {clip}, eps {eps} or a variance is invalid")
    return Normalizer(mean, var, min(clip, float(np.finfo(np.float64).max)), eps)  # an infinity is no JSON


def _damaged(path: Path, why: object) -> GatoError:
    return GatoError(
        f"{path} cannot be used as observation statistics ({why}): restore it from where the expert came from"
    )
