"""Gato, a generalist agent: collect expert episodes, train on them, evaluate and play in any Gymnasium environment.

    gato_agent.collect(env=("CartPole-v1",), out=Path("data"))
    gato_agent.train(data=(Path("data"),), out=Path("runs/cartpole"))
    agent = gato_agent.Agent.from_pretrained("runs/cartpole", gato_agent.make("CartPole-v1"))

`import gato_agent` is cheap: a name below brings its module, and with it torch where it needs torch, on first use. The
import registers this package's own environments, such as `Meta-World/reach-v3`, if their packages are installed; before
Gymnasium is imported, it waits for that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gato_agent.envs.io import former_modules
from gato_agent.envs.io.lazy import lazy, when_imported

if TYPE_CHECKING:
    from gato_agent.api import collect, evaluate, improve, play, train
    from gato_agent.envs.api import make, make_vec
    from gato_agent.evaluation.sb3_vec_env import SB3VecEnv
    from gato_agent.inference.agent import Agent
    from gato_agent.model.config import GatoConfig
    from gato_agent.model.gato import Gato
    from gato_agent.tokens.space_tokenizer import SpaceTokenizer

    __version__: str

__all__ = [
    "Agent",
    "Gato",
    "GatoConfig",
    "SB3VecEnv",
    "SpaceTokenizer",
    "__version__",
    "collect",
    "evaluate",
    "improve",
    "make",
    "make_vec",
    "play",
    "train",
]

_public = lazy(
    __name__,
    {
        "Agent": "gato_agent.inference.agent",
        "Gato": "gato_agent.model.gato",
        "GatoConfig": "gato_agent.model.config",
        "SB3VecEnv": "gato_agent.evaluation.sb3_vec_env",
        "SpaceTokenizer": "gato_agent.tokens.space_tokenizer",
        "collect": "gato_agent.api",
        "evaluate": "gato_agent.api",
        "improve": "gato_agent.api",
        "make": "gato_agent.envs.api",
        "make_vec": "gato_agent.envs.api",
        "play": "gato_agent.api",
        "train": "gato_agent.api",
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


def _register() -> None:
    """Register the environments of this package in Gymnasium."""
    from gato_agent.envs.tasks.packages import register_own

    register_own()


former_modules.register()
when_imported("gymnasium", _register)
