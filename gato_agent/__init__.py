"""Gato, a generalist agent: collect expert episodes, train on them, evaluate and play in any Gymnasium environment.

`import gato_agent` is cheap: a name below brings its module, and with it torch where it needs torch, on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gato_agent.agent import Agent
    from gato_agent.config import GatoConfig
    from gato_agent.model import Gato
    from gato_agent.spaces import SpaceTokenizer

    __version__: str

__all__ = ["Agent", "Gato", "GatoConfig", "SpaceTokenizer", "__version__"]

_ROOMS = {"Agent": "agent", "Gato": "model", "GatoConfig": "config", "SpaceTokenizer": "spaces"}


def __getattr__(name: str) -> Any:
    """Import a public name from its room when it is first asked for."""
    if name == "__version__":
        return import_module("importlib.metadata").version("gato-agent")
    if name not in _ROOMS:
        raise AttributeError(f"module 'gato_agent' has no attribute {name!r}")
    return getattr(import_module(f"gato_agent.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """Names that exist, imported or not."""
    return sorted({*globals(), *__all__})
