"""The verb `collect`, which adds the agent of a checkpoint as the learner of `--dagger`."""

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
    """Collect episodes of an expert, or with `--dagger` of an agent that an expert labels; raises as `collect`."""
    collect_episodes(config, Trained.named(config.dagger) if config.dagger else None)


@dataclass(frozen=True)
class Trained:
    """A checkpoint as a `rollouts.collection.dagger.Learner`.

    Attributes:
        path: of the file.
        sha256: of its bytes.
    """

    path: Path
    sha256: str

    @classmethod
    def named(cls, reference: str) -> Self:
        """Find the checkpoint of a run folder, file or `shipped`; raises UsageError if there is none."""
        from gato_agent.checkpoints.checkpoint import locate

        path = locate(reference).resolve()
        return cls(path, _digest(path))

    def knows(self, env_id: str) -> bool:
        """True if the checkpoint was trained on the environment of this id."""
        return env_id in _load(self).tasks

    def check(self, envs: VectorEnv[Any, Any, Any]) -> None:
        """Raise UsageError if the checkpoint was not trained on these environments' id or spaces."""
        from gato_agent.checkpoints.task_matching import find_task

        find_task(_load(self), envs)

    def make(self, envs: VectorEnv[Any, Any, Any]) -> "Agent":
        """Make a greedy agent for these environments; raises GatoError if the file has changed."""
        from gato_agent.checkpoints.task_matching import find_task
        from gato_agent.inference.agent import Agent

        checkpoint = _load(self)
        masks = envs.action_masks if isinstance(envs, SeparateInfos) else None
        return Agent(checkpoint, find_task(checkpoint, envs), temperature=0.0, masks=masks)


@lru_cache(maxsize=1)  # a worker process plays one task at a time
def _load(trained: Trained) -> "Checkpoint":
    from gato_agent.checkpoints.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(trained.path)
    if _digest(trained.path) != trained.sha256:  # after loading, so that the digest is that of the loaded file
        raise GatoError(f"{trained.path} changed while it was in use: collect with a copy of it")
    return checkpoint


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
