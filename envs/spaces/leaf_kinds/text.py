"""Text: strings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Text
from numpy.typing import NDArray

from gato_agent.envs.spaces.leaf_kind import Bounds, LeafKind
from gato_agent.envs.spaces.paths import space_error

LONGEST = 2**63 - 1  # exclusive bound of Gymnasium's random lengths


class TextKind(LeafKind[Text]):
    """Strings; their columns are object arrays [B] of str."""

    space, scalar, objects = Text, True, True

    def to_json(self, space: Text) -> dict[str, Any]:
        """Lengths and characters."""
        return {"min_length": space.min_length, "max_length": space.max_length, "charset": space.characters}

    def from_json(self, json: dict[str, Any]) -> Text:
        """Inverse of `to_json`."""
        least, most, charset = json["min_length"], json["max_length"], json["charset"]
        if type(charset) is not str or not type(least) is type(most) is int or not 0 <= least <= most < LONGEST:
            raise ValueError(f"a text of {least!r:.80} to {most!r:.80} characters")
        return Text(most, min_length=least, charset=charset)

    def json_shape(self, json: dict[str, Any]) -> tuple[int, ...]:
        """A single string."""
        return ()

    def bounds(self, space: Text, acted: bool) -> None:
        """Strings have no numeric bounds."""

    def shape(self, space: Text) -> tuple[int, ...]:
        """A single string."""
        return ()

    def dtype(self, space: Text) -> np.dtype[Any]:
        """Object."""
        return np.dtype(object)

    def column(self, space: Text, path: str, values: Any) -> NDArray[Any]:
        """Strings as an object array [B]; raises SpaceError for anything else."""
        if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
            raise space_error(path, f"{type(values).__name__} instead of a sequence of str")
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise space_error(path, f"{type(value).__name__} instead of str", row)
        column = np.empty(len(values), dtype=object)
        column[:] = list(map(str, values))  # numpy's own strings too
        return column

    def batch(self, space: Text, column: NDArray[Any]) -> tuple[str, ...]:
        """A tuple of str."""
        return tuple(column)

    def is_single(self, space: Text, value: Any) -> bool:
        """True for a string."""
        return isinstance(value, str)

    def sound(self, space: Text, acted: bool, bounds: Bounds | None) -> Callable[[Any], bool]:
        """An action has the characters of the space, an observation any."""
        if acted:
            return lambda value: type(value) is str and space.contains(value)
        most = space.max_length
        return lambda value: type(value) is str and len(value) <= most and value.isascii()

    def check(self, space: Text, path: str, column: NDArray[Any], acted: bool, bounds: Bounds | None) -> None:
        """Raise SpaceError for the first invalid string."""
        for row, text in enumerate(column):
            if fault := _text_fault(space, text, acted):
                raise space_error(path, fault, row)

    def same_meaning(self, a: Text, b: Text, acted: bool) -> bool:
        """True for observations, and for actions of the same characters and lengths."""
        return a == b or not acted


def _text_fault(space: Text, text: str, acted: bool) -> str | None:
    """Description of what makes a text invalid; None if it is valid."""
    if len(text) > space.max_length:
        return f"a text of {len(text)} characters, beyond its bound of {space.max_length}: {text!a:.80}"
    if acted and not space.contains(text):
        return f"{text!a:.80} is not in {space!a:.200}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text!a:.80} has characters that are not in Unicode"
    return None


KIND = TextKind()
