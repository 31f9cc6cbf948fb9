"""Columns of episodes as Arrow arrays, and back; images are PNG."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.storage.lerobot.features import TEXT, Feature

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> mode of Pillow
FORMATS = ("PNG", "JPEG")  # some of Pillow's others start programs


def arrow_type(feature: Feature) -> pa.DataType:
    """Type of a feature's column; a list of one axis has a fixed size, as LeRobot's own."""
    if feature.dtype == TEXT:
        return pa.string()
    if feature.dtype == "image":
        return PICTURE
    number = pa.from_numpy_dtype(np.dtype(feature.dtype))
    if feature.shape == (1,):
        return number
    if len(feature.shape) == 1:
        return pa.list_(number, feature.shape[0])
    for _ in feature.shape:
        number = pa.list_(number)
    return number


def to_arrow(feature: Feature, column: NDArray[Any]) -> pa.Array:
    """Rows of a column as an array of `arrow_type`; raises pyarrow's exceptions for text that is not Unicode."""
    if feature.dtype == TEXT:
        return pa.array(column.tolist(), pa.string())
    if feature.dtype == "image":
        return pa.array([{"bytes": to_png(image), "path": None} for image in column], PICTURE)
    array = pa.array(np.ascontiguousarray(column, feature.dtype).reshape(-1))
    if feature.shape == (1,):
        return array
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(array, feature.shape[0])
    for side in reversed(feature.shape):
        array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, side, dtype=np.int32), array)
    return array


def from_arrow(feature: Feature, array: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Rows of a column, [B, *shape], of the stored dtype; text is an object array [B].

    Raises:
        GatoError: a missing value, or another shape or type than the feature's.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.null_count:
        raise GatoError(f"{feature.name}: {array.null_count:,} values are missing")
    if feature.dtype == TEXT:
        return _texts(feature, array)
    if feature.dtype == "image":
        return np.stack([from_png(feature, picture) for picture in array.to_pylist()])
    rows = len(array)
    for side in feature.shape if feature.shape != (1,) or pa.types.is_nested(array.type) else ():
        if not pa.types.is_nested(array.type) or any(length != side for length in _lengths(array)):
            raise GatoError(f"{feature.name}: rows of another shape than {feature.shape}")
        array = array.flatten()
    if array.null_count or not _is_number(array.type) or len(array) != rows * math.prod(feature.shape):
        raise GatoError(f"{feature.name}: values of {array.type} instead of {feature.dtype} of {feature.shape}")
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers.reshape(rows, *feature.shape)


def _lengths(array: pa.Array) -> Sequence[int]:
    """The distinct lengths of lists."""
    lengths: list[int] = pc.unique(pc.list_value_length(array)).to_pylist()
    return lengths


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _texts(feature: Feature, array: pa.Array) -> NDArray[Any]:
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        raise GatoError(f"{feature.name}: values of {array.type} instead of text")
    column = np.empty(len(array), dtype=object)
    column[:] = array.to_pylist()
    return column


def to_png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image [height, width, channels] losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(feature: Feature, picture: Any) -> NDArray[np.uint8]:
    """Decode an image of a feature, uint8 [height, width, channels].

    Raises:
        GatoError: no bytes, such as the name of a file, or an image of another size.
        OSError: neither PNG nor JPEG, or damaged.
    """
    data = picture.get("bytes") if isinstance(picture, dict) else None
    if not isinstance(data, bytes):
        raise GatoError(f"{feature.name}: an image without bytes; files that a data set names are not read")
    height, width, channels = feature.shape
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.size != (width, height):
            raise GatoError(f"{feature.name}: an image of {image.width} x {image.height} instead of {width} x {height}")
        if channels not in MODES:
            raise GatoError(f"{feature.name}: an image of {channels} channels")
        return np.asarray(image.convert(MODES[channels]), np.uint8).reshape(feature.shape)
