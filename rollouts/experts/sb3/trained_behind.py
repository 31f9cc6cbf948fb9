"""Evidence in an SB3 zip that its model was trained behind VecNormalize, whose statistics are not in the zip.

A zip has the model's last two observations. On-policy algorithms store the original one only if it was normalised.
Off-policy algorithms always do: behind VecNormalize it is the last observation before its normalisation, else the
observation of the step before.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.experts.sb3.vecnormalize import array_of, bounds_of, dtypes_in, unpickled

CLIPPED = 10.0  # magnitude at which VecNormalize clips by default
MARGIN = 0.01  # of the range of a bounded observation, by which environments may exceed it

Floats = NDArray[np.float64]


def trained_behind(data: Mapping[str, Any]) -> bool | None:
    """True if a model was trained with VecNormalize, false if it was not, None if its zip does not show it."""
    original, last = data.get("_last_original_obs"), data.get("_last_obs")
    if "replay_buffer_class" not in data and "buffer_size" not in data:
        return True if original is not None else None if last is None else False
    kinds = [_dtypes(each) for each in (original, last)]
    if all(kinds) and kinds[0] != kinds[1]:  # normalised observations are float32
        return True
    return _by_values(_floats(original), _floats(last), _bounds(data.get("observation_space")))


def _by_values(
    original: Mapping[str, Floats], last: Mapping[str, Floats], bounds: Mapping[str, tuple[Floats, Floats]]
) -> bool | None:
    """`trained_behind` from the values of two observations, [env, ...] by key."""
    shared = [key for key, values in original.items() if key in last and last[key].shape == values.shape]
    for key in shared:
        if key in bounds and _within(original[key], *bounds[key]) and not _within(last[key], *bounds[key]):
            return True
    return False if shared and all(_stands_still(original[key], last[key]) for key in shared) else None


def _stands_still(before: Floats, after: Floats) -> bool:
    """True if an element is the same in both steps, such as a goal or a contact: normalised it would not be."""
    return bool(((before == after) & (before != 0) & (np.abs(after) != CLIPPED)).any())


def _within(values: Floats, low: Floats, high: Floats) -> bool:
    """True if observations are within the bounds of their space, or nearly."""
    with np.errstate(invalid="ignore", over="ignore"):
        slack = np.nan_to_num(MARGIN * (high - low), posinf=0.0)  # nothing is beyond an infinite bound
        return bool(((values >= low - slack) & (values <= high + slack)).all())


def _data(described: Any) -> bytes:
    """The pickle in a zip's description of a value; raises ValueError for none."""
    try:
        return base64.b64decode(described[":serialized:"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"{described!r:.80} without a pickle") from error


def _dtypes(described: Any) -> list[str]:
    """Dtypes of the arrays of a pickled observation; empty if they cannot be read."""
    try:
        return dtypes_in(_data(described))
    except (GatoError, ValueError):
        return []


def _floats(described: Any) -> dict[str, Floats]:
    """Arrays of floats of a pickled observation by key, "" if it is no Dict; those that cannot be read are left out."""
    try:
        value = unpickled(_data(described))
    except Exception:  # noqa: BLE001  # a damaged pickle raises nearly any exception
        return {}
    return _readable(value if isinstance(value, dict) else {"": value}, array_of)


def _bounds(described: Any) -> dict[str, tuple[Floats, Floats]]:
    """Bounds of a pickled Box, or of the Boxes of a Dict, by key; those that cannot be read are left out."""
    try:
        space = unpickled(_data(described))
        inner = space.state.get("spaces")
    except Exception:  # noqa: BLE001  # likewise
        return {}
    return _readable(inner if isinstance(inner, dict) else {"": space}, bounds_of)


def _readable(parts: Mapping[Any, Any], read: Any) -> dict[str, Any]:
    values = {}
    for key, part in parts.items():
        try:
            values[str(key)] = read(part)
        except Exception:  # noqa: BLE001  # likewise
            continue
    return values
