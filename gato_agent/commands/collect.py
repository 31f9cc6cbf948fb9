"""The verb `collect`, which adds the agent of a checkpoint: as the learner of `--dagger`, or in place of an expert."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.envs.vector import SeparateInfos
from gato_agent.rollouts.collection.collect import CollectConfig
from gato_agent.rollouts.collection.collect import collect as collect_episodes

if TYPE_CHECKING:
    from gato_agent.checkpoints.checkpoint import Checkpoint
    from gato_agent.inference.agent import Agent

__all__ = ["CollectConfig", "collect"]


def collect(config: CollectConfig, *, print_table: bool = True) -> None:
    """Collect episodes of an expert, of an agent, or with `--dagger` of an agent that an expert labels.

    Args:
        config: options of the command.
        print_table: print a table of the episodes at the end.

    Raises:
        UsageError: as `collect_episodes`; or no such checkpoint.
        GatoError: as `collect_episodes`.
    """
    learner = Trained.named(config.dagger) if config.dagger else None
    collect_episodes(
        config, learner, _agent(config) if config.checkpoint is not None else None, print_table=print_table
    )


def _agent(config: CollectConfig) -> "Sampled":
    """Agent of --checkpoint; raises UsageError if there is none, or for options that exclude it."""
    from gato_agent.checkpoints.checkpoint import FILE

    config.check()
    trained, path = Trained.named(str(config.checkpoint)), Path(str(config.checkpoint))
    name = path.resolve().parent.name if path.name == FILE else path.name  # a run folder's
    temperature = TEMPERATURE if config.temperature is None else config.temperature
    return Sampled(trained, name, temperature, config.sampling_seed)


TEMPERATURE = 1.0  # of sampled actions: the distribution that training fits
STREAM = 0x5A3B1E  # separates these random numbers from others with the same episode seed


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
        from gato_agent.checkpoints.task_matching import matching_task

        matching_task(_load(self), envs)  # `make` has the warning of `find_task`

    def make(self, envs: VectorEnv[Any, Any, Any], temperature: float = 0.0) -> "Agent":
        """Make an agent for these environments, by default a greedy one; raises GatoError if the file has changed."""
        from gato_agent.checkpoints.task_matching import find_task
        from gato_agent.inference.agent import Agent

        checkpoint = _load(self)
        masks = envs.action_masks if isinstance(envs, SeparateInfos) else None
        return Agent(checkpoint, find_task(checkpoint, envs), temperature=temperature, masks=masks)


@dataclass(frozen=True)
class Sampled:
    """A checkpoint as a `rollouts.collection.dagger.SampledAgent`.

    Attributes:
        trained: the checkpoint.
        name: of the run folder or file, without its folders.
        temperature: of sampling; 0: greedy.
        seed: of sampling.
    """

    trained: Trained
    name: str
    temperature: float
    seed: int

    def knows(self, env_id: str) -> bool:
        """True if the checkpoint was trained on the environment of this id."""
        return self.trained.knows(env_id)

    def make_expert(self, envs: VectorEnv[Any, Any, Any]) -> "AgentExpert":
        """Make the agent for these environments; raises as `Trained.make`."""
        self.trained.check(envs)
        sampling = f"temperature {self.temperature:g}" + (f", sampling seed {self.seed}" if self.temperature else "")
        provenance = {"kind": "agent", "source": f"{self.name}, {sampling}", "sha256": self.trained.sha256}
        return AgentExpert(self.trained.make(envs, self.temperature), provenance, self.seed)


class AgentExpert:
    """An agent as an `Expert`; its actions are a function of the episode's seed and the sampling seed.

    Attributes:
        provenance: kind, source and sha256.
    """

    def __init__(self, agent: "Agent", provenance: dict[str, str], seed: int) -> None:
        self.provenance = provenance
        self._agent, self._seed = agent, seed

    def seed(self, seed: int) -> None:
        """Seed the actions of the next episode."""
        self._agent.seed = int(np.random.SeedSequence([STREAM, self._seed, seed]).generate_state(1)[0])

    def reset(self, num_envs: int) -> None:
        """Forget the episode and begin the random stream again."""
        self._agent.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Choose a batch of actions."""
        return self._agent.act(observation, start)


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
