"""The transformer: tokens and patches in, hidden states out."""

from typing import TYPE_CHECKING

from gato_agent.envs.io.lazy import lazy

if TYPE_CHECKING:
    from gato_agent.model.config import GatoConfig
    from gato_agent.model.gato import Gato

__all__ = ["Gato", "GatoConfig"]

__getattr__ = lazy(
    __name__,
    {
        "Gato": "gato_agent.model.gato",
        "GatoConfig": "gato_agent.model.config",
    },
)
