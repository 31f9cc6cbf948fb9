"""Spaces and texts as tokens."""

from typing import TYPE_CHECKING

from gato_agent.envs.io.lazy import lazy

if TYPE_CHECKING:
    from gato_agent.tokens.space_tokenizer import SpaceTokenizer
    from gato_agent.tokens.text_tokenizer import TextTokenizer
    from gato_agent.tokens.timestep_layout import TimestepLayout

__all__ = ["SpaceTokenizer", "TextTokenizer", "TimestepLayout"]

__getattr__ = lazy(
    __name__,
    {
        "SpaceTokenizer": "gato_agent.tokens.space_tokenizer",
        "TextTokenizer": "gato_agent.tokens.text_tokenizer",
        "TimestepLayout": "gato_agent.tokens.timestep_layout",
    },
)
