"""Checkpoint files: weights and how to use them."""

from typing import TYPE_CHECKING

from gato_agent.envs.io.lazy import lazy

if TYPE_CHECKING:
    from gato_agent.checkpoints.checkpoint import Checkpoint
    from gato_agent.checkpoints.trained_task import TrainedTask

__all__ = ["Checkpoint", "TrainedTask"]

__getattr__ = lazy(
    __name__,
    {
        "Checkpoint": "gato_agent.checkpoints.checkpoint",
        "TrainedTask": "gato_agent.checkpoints.trained_task",
    },
)
