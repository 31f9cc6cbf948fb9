"""The agent and its decoders: observations in, actions out."""

from typing import TYPE_CHECKING

from gato_agent.envs.io.lazy import lazy

if TYPE_CHECKING:
    from gato_agent.inference.agent import Agent

__all__ = ["Agent"]

__getattr__ = lazy(
    __name__,
    {
        "Agent": "gato_agent.inference.agent",
    },
)
