"""Features of a LeRobot data set: the columns that hold the leaves of a space.

    observation.state          the observation, if it is one array of numbers
    observation.image          the observation, if it is one image
    observation.a.b            leaf a/b of an observation: numbers or text
    observation.images.a.b     leaf a/b of an observation: an image
    action, action.a.b         executed actions
    expert_action.a.b          the expert's actions, where others were executed

LeRobot has no scalars: a single number has the shape (1,).
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Space

from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.flatten import Leaf, leaves

OBSERVATION: Final = "observation"
ACTION: Final = "action"
LABEL: Final = "expert_action"
Group = Literal["observation", "action", "expert_action"]
CHANNELS = (1, 3, 4)  # of images that PNG holds as they are
LEAST_SIDE = 16  # pixels; smaller arrays of bytes are numbers, such as a grid of symbols
MOST_AXES = 5  # of an array in LeRobot
NUMBERS = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
IMAGES = ("image", "video")
TEXT = "string"


class Feature(NamedTuple):
    """A column of a data set.

    Attributes:
        name: of the column.
        dtype: a number's dtype, or image, video or string.
        shape: of a row: (height, width, channels) of an image, (1,) of a single number or text.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Entry of `features` in meta/info.json."""
        names = ["height", "width", "channels"] if self.dtype in IMAGES else None
        return {"dtype": self.dtype, "shape": list(self.shape), "names": names}


def features_of(space: Space[Any], group: Group, *, video: bool = False) -> dict[str, Feature]:
    """Leaf path -> feature that holds the leaf.

    Args:
        space: of observations or actions.
        group: first part of the features' names.
        video: true for images as videos, which are lossy.

    Raises:
        GatoError: a leaf that LeRobot cannot hold; the message names it.
    """
    features: dict[str, Feature] = {}
    for leaf in leaves(space):
        image = group == OBSERVATION and is_image(leaf.space)
        feature = _feature(leaf, _name(leaf.path, group, image=image), image, video)
        for path, other in features.items():
            if other.name == feature.name:
                raise GatoError(
                    f"{group}: {leaf.path!r} and {path!r} would both be the feature {feature.name!r}: rename one in a "
                    "wrapper of the environment, and collect again"
                )
        features[leaf.path] = feature
    return features


def is_image(space: Space[Any]) -> bool:
    """True for bytes from 0 to 255 of shape (height, width, 1, 3 or 4)."""
    if not isinstance(space, Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    height, width, channels = space.shape
    if min(height, width) < LEAST_SIDE or channels not in CHANNELS:
        return False
    return bool((space.low == 0).all() and (space.high == 255).all())


def _name(path: str, group: str, *, image: bool) -> str:
    keys = [key.replace("~1", "/").replace("~0", "~") for key in path.split("/")] if path else []
    for key in keys:
        if not key or "/" in key or "\0" in key or not key.isprintable():
            raise GatoError(
                f"{group}: the key {key!r} cannot be part of a feature's name in LeRobot: rename it in a wrapper of "
                "the environment, and collect again"
            )
    if not keys:
        return {OBSERVATION: f"{OBSERVATION}.image" if image else f"{OBSERVATION}.state"}.get(group, group)
    return ".".join([group, *(["images"] if image else []), *keys])


def _feature(leaf: Leaf, name: str, image: bool, video: bool) -> Feature:
    if leaf.dtype == object:
        return Feature(name, TEXT, (1,))
    if image:
        if video and leaf.shape[2] != 3:
            raise GatoError(f"{name} has {leaf.shape[2]} channels, and a video has 3: export without --video")
        return Feature(name, "video" if video else "image", leaf.shape)
    if leaf.dtype.name not in NUMBERS or len(leaf.shape) > MOST_AXES or 0 in leaf.shape:
        raise GatoError(f"{name} has shape {leaf.shape} of {leaf.dtype}, which LeRobot cannot hold")
    return Feature(name, leaf.dtype.name, leaf.shape or (1,))


def feature_from_json(name: str, json: Any) -> Feature:
    """Feature of an entry of `features` in meta/info.json.

    Raises:
        ValueError, TypeError, LookupError: no such entry.
    """
    if not isinstance(json, Mapping) or not isinstance(json["shape"], list | tuple):
        raise ValueError(f"the feature {name!r:.80} is no object with a shape")
    dtype, shape = json["dtype"], tuple(json["shape"])
    if dtype not in (*NUMBERS, *IMAGES, TEXT) or any(type(side) is not int or side < 1 for side in shape):
        raise ValueError(f"the feature {name!r:.80} has shape {shape!r:.80} of {dtype!r:.80}")
    if "/" in name or "\0" in name:
        raise ValueError(f"the feature {name!r:.80} has a name that is no file's")
    if dtype in IMAGES:
        if len(shape) != 3:
            raise ValueError(f"the image {name!r:.80} has shape {shape!r:.80}")
        names = json.get("names")
        first = names[0] if isinstance(names, list) and names else ""
        if str(first).startswith("channel"):  # declared as channels, height, width
            shape = (*shape[1:], shape[0])
    return Feature(name, dtype, shape)
