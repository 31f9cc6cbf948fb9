"""Gato, a generalist agent: collect expert episodes, train on them, evaluate and play in any Gymnasium environment.

`import gato_agent` is cheap: a name below brings its module, and with it torch where it needs torch, on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gato_agent.envs.io.lazy import lazy

if TYPE_CHECKING:
    from gato_agent.inference.agent import Agent
    from gato_agent.model.config import GatoConfig
    from gato_agent.model.gato import Gato
    from gato_agent.tokens.space_tokenizer import SpaceTokenizer

    __version__: str

__all__ = ["Agent", "Gato", "GatoConfig", "SpaceTokenizer", "__version__"]

_public = lazy(
    __name__,
    {
        "Agent": "gato_agent.inference.agent",
        "Gato": "gato_agent.model.gato",
        "GatoConfig": "gato_agent.model.config",
        "SpaceTokenizer": "gato_agent.tokens.space_tokenizer",
    },
)


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "__version__":
        return import_module("importlib.metadata").version("gato-agent")
    return _public(name)


def __dir__() -> list[str]:
    """Names that exist, imported or not."""
    return sorted({*globals(), *__all__})
