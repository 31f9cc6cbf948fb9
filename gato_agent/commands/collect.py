"""The verb `collect`, with the agent of a checkpoint for `--dagger`; collecting itself knows no agents."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gymnasium.vector import VectorEnv

from gato_agent.envs.errors import GatoError
from gato_agent.envs.vector import SeparateInfos
from gato_agent.rollouts.collection.collect import CollectConfig
from gato_agent.rollouts.collection.collect import collect as collect_episodes

if TYPE_CHECKING:
    from gato_agent.checkpoints.checkpoint import Checkpoint
    from gato_agent.inference.agent import Agent

__all__ = ["CollectConfig", "collect"]


def collect(config: CollectConfig) -> None:
    """Collect episodes of an expert, or of an agent that an expert watches; raises as `rollouts.collect` does."""
    collect_episodes(config, Trained.named(config.dagger) if config.dagger else None)


@dataclass(frozen=True)
class Trained:
    """A checkpoint as a `rollouts.dagger.Learner`.

    Attributes:
        path: of the file.
        sha256: of its bytes.
    """

    path: Path
    sha256: str

    @classmethod
    def named(cls, reference: str) -> Self:
        """Find a run folder's checkpoint, a file, or the `shipped` one; raises UsageError if there is none."""
        from gato_agent.checkpoints.checkpoint import locate

        path = locate(reference).resolve()
        return cls(path, _digest(path))

    def knows(self, env_id: str) -> bool:
        """Whether it was trained on the environment of this id."""
        return env_id in _load(self).tasks

    def check(self, envs: VectorEnv[Any, Any, Any]) -> None:
        """Raise UsageError if it was not trained on these environments' id or spaces."""
        from gato_agent.checkpoints.task_matching import find_task

        find_task(_load(self), envs)

    def make(self, envs: VectorEnv[Any, Any, Any]) -> "Agent":
        """A greedy agent for these environments; raises GatoError if the file has changed since it was named."""
        from gato_agent.checkpoints.task_matching import find_task
        from gato_agent.inference.agent import Agent

        checkpoint = _load(self)
        masks = envs.action_masks if isinstance(envs, SeparateInfos) else None
        return Agent(checkpoint, find_task(checkpoint, envs), temperature=0.0, masks=masks)


@lru_cache(maxsize=1)  # a process plays one task after the other
def _load(trained: Trained) -> "Checkpoint":
    from gato_agent.checkpoints.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(trained.path)
    if _digest(trained.path) != trained.sha256:  # afterwards, so that what was loaded is what was looked at
        raise GatoError(f"{trained.path} changed while it was in use: collect with a copy of it")
    return checkpoint


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
