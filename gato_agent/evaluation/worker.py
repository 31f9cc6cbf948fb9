"""Evaluation worker: plays the episodes of one task at a time, in this process, another one, or on Ray."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from gymnasium.vector import VectorEnv

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import matching_task
from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.make import find_spec, make_vector
from gato_agent.evaluation.episode_totals import EpisodeTotals
from gato_agent.evaluation.task_score import Outcome
from gato_agent.inference.decoders.decoder import Precision
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.inference.options import resolve_device
from gato_agent.rollouts.collection import episode_worker as player
from gato_agent.rollouts.collection.episode_worker import BEAT, JOB, NOTHING, SEED, STEP, Failed
from gato_agent.rollouts.experts.expert import Expert
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.storage.writer import Played
from gato_agent.tokens.prompt import Kind

_log = logging.getLogger(__name__)

ActorAndEnvs = contextlib.AbstractContextManager[tuple[Actor, VectorEnv[Any, Any, Any]]]


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation, the same for all its tasks.

    Attributes:
        checkpoint: reference of a checkpoint, None for the shipped weights.
        expert: expert instead of a checkpoint, as `load_expert` takes it.
        sha256: digest that the weights must have; None for any.
        episodes: number for each task.
        seed: of the first episode.
        n_envs: maximum number of parallel environments.
        temperature: of sampling, as `Agent` takes it, or by task those above 0.
        device: as `Agent` takes it.
        precision: of the weights, as `Agent` takes it.
        prompt: kind of prompt, as `Agent` takes it.
        demo: folder with demonstrations, as `make_agent_and_envs` takes it.
        num_threads: of torch; None leaves its setting.
        env_kwargs: arguments of the environments; by default those of the agent's training.
        statistics: VecNormalize statistics of an SB3 expert, as `load_expert` takes them.
        wrappers: observation wrappers of an SB3 expert, as `load_expert` takes them.
    """

    checkpoint: str | None
    expert: str | None
    sha256: str | None
    episodes: int
    seed: int
    n_envs: int
    temperature: float | dict[str, float] = 0.0
    device: str = "cpu"
    precision: Precision = "float32"
    prompt: Kind | None = None
    demo: Path | None = None
    num_threads: int | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    statistics: str | None = None
    wrappers: Wrappers | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Settings that determine the results, as JSON; an evaluation resumes only with equal ones."""
        names = ["expert", "episodes", "seed", "temperature", "precision", "prompt", "env_kwargs"]
        if self.temperature:  # an environment's noise goes on from episode to episode
            names.append("n_envs")
        if self.expert:
            names += ["statistics", "wrappers"]
        return {**{name: getattr(self, name) for name in names}, "demo": None if self.demo is None else str(self.demo)}

    def num_envs(self) -> int:
        """Number of environments that divides the episodes evenly: an idle environment costs as much as a busy one."""
        rounds = -(-self.episodes // self.n_envs)
        return -(-self.episodes // rounds)


def expert_sha256(expert: str | None) -> str | None:
    """SHA-256 of an expert's file, None without a file."""
    path = Path(expert or "")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@dataclass(frozen=True)
class EvaluationJob:
    """Task to be played; `env` is its id with the user's module to import, if any."""

    env: str
    env_id: str
    settings: EvaluationSettings

    def where(self, seed: int, step: int) -> str:
        """Progress for an error message: the number of completed episodes."""
        return f"after {step} of {self.settings.episodes} episodes it"


class ActorFactory:
    """Factory of actors and their environments, which loads a checkpoint once."""

    def __init__(self) -> None:
        self._checkpoint: Checkpoint | None = None

    def make(self, job: EvaluationJob, num_envs: int, render_mode: str | None = None) -> ActorAndEnvs:
        """Context with the actor of a job and its environments.

        Raises:
            UsageError: an unknown task, a missing package, or an unsupported render mode.
            GatoError: the environment cannot be made, or the weights differ from the job's digest.
        """
        settings = job.settings
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        find_spec(job.env)  # imports the module that the user named
        if settings.expert:
            return expert_and_envs(job, render_mode)
        device = resolve_device(settings.device)
        checkpoint = self._load(settings, device)
        temperature = None if isinstance(settings.temperature, dict) else settings.temperature
        if job.env_id not in checkpoint.tasks:
            _check_spaces(checkpoint, job)
        return make_agent_and_envs(
            checkpoint, job.env_id, num_envs, env_kwargs=settings.env_kwargs, render_mode=render_mode, device=device,
            temperature=temperature, seed=settings.seed, precision=settings.precision, prompt=settings.prompt,
            demo=settings.demo, num_threads=settings.num_threads,
        )  # fmt: skip

    def _load(self, settings: EvaluationSettings, device: str) -> Checkpoint:
        if self._checkpoint is None:
            loaded = Checkpoint.load(settings.checkpoint, device)
            if settings.sha256 not in (None, loaded.sha256()):
                raise GatoError(f"{loaded.name} changed while it was evaluated: repeat the command")
            self._checkpoint = loaded
        return self._checkpoint


def _check_spaces(checkpoint: Checkpoint, job: EvaluationJob) -> None:
    """Raise UsageError unless an unknown task has the spaces of a known one; makes one environment only."""
    with contextlib.closing(make_vector(job.env_id, 1, env_kwargs=job.settings.env_kwargs)) as envs:
        matching_task(checkpoint, envs)


@contextlib.contextmanager
def expert_and_envs(job: EvaluationJob, render_mode: str | None) -> Iterator[tuple[Actor, VectorEnv[Any, Any, Any]]]:
    """Context with an expert and one environment, as in collection."""
    settings, kwargs = job.settings, job.settings.env_kwargs
    if settings.sha256 not in (None, expert_sha256(settings.expert)):
        raise GatoError(f"the expert {settings.expert} is no longer the one that was evaluated: evaluate it again")
    with contextlib.closing(make_vector(job.env_id, 1, env_kwargs=kwargs, render_mode=render_mode)) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        expert = load_expert(
            settings.expert or "", job.env_id, *spaces, settings.seed, envs=envs, env_kwargs=kwargs,
            statistics=settings.statistics, wrappers=settings.wrappers,
        )  # fmt: skip
        expert.seed(settings.seed)
        yield expert, envs


class EvaluationWorker:
    """Worker that evaluates any of several jobs."""

    def __init__(self, jobs: Sequence[EvaluationJob]) -> None:
        self._jobs, self._actors = jobs, ActorFactory()

    def play(self, job: int, seeds: Sequence[int], heartbeat: MutableSequence[int]) -> Iterator[player.Result]:
        """Yield one result of a job, as JSON: its episodes, or the reason why it was skipped."""
        heartbeat[JOB], heartbeat[SEED], heartbeat[STEP] = job, NOTHING, 0
        task, began = self._jobs[job], time.perf_counter()
        outcome: dict[str, Any] = {}
        try:
            with self._actors.make(task, task.settings.num_envs()) as (actor, envs):
                heartbeat[BEAT] += 1
                heartbeat[SEED], began = seeds[0], time.perf_counter()
                episodes = _play_episodes(task, actor, envs, heartbeat)
                outcome = {"episodes": episodes, "seconds": time.perf_counter() - began}
        except Exception as error:  # noqa: BLE001  # reported with its task; the other tasks continue
            if outcome:  # all episodes are played; closing the environments failed
                _log.warning("%s", describe(task.env_id, error))
            elif isinstance(error, UsageError):  # the task cannot be evaluated
                outcome = {"skipped": str(error)}
            else:
                yield Failed(job, seeds[0], describe(task.env_id, error))
                return
        finally:
            heartbeat[JOB] = heartbeat[SEED] = NOTHING
        yield Played(job, seeds[0], json.dumps(outcome).encode(), 0, 0.0, time.perf_counter() - began)


def describe(env_id: str, error: Exception) -> str:
    """Error message in one line that begins with the environment id."""
    return str(error) if isinstance(error, GatoError) else f"{env_id}: {one_line(error)}"


def _play_episodes(
    job: EvaluationJob, actor: Actor, envs: VectorEnv[Any, Any, Any], heartbeat: MutableSequence[int]
) -> list[Outcome]:
    """Play all episodes of a task; returns their outcomes by seed."""
    settings, episodes = job.settings, list[Outcome]()
    seeds = range(settings.seed, settings.seed + settings.episodes)
    for group in [[seed] for seed in seeds] if settings.expert else [seeds]:
        if settings.expert:
            cast(Expert, actor).seed(group[0])  # as in collection
        for episode in play_episodes(actor, envs, group, job.env_id, heartbeat):
            episodes.append(episode)
            heartbeat[STEP] = len(episodes)
    return sorted(episodes)


def play_episodes(
    actor: Actor,
    envs: VectorEnv[Any, Any, Any],
    seeds: Iterable[int],
    task: str,
    heartbeat: MutableSequence[int] | None = None,
) -> Iterator[Outcome]:
    """Play one episode per seed and yield each outcome as it ends; every step advances the heartbeat."""
    heartbeat = [0] * 4 if heartbeat is None else heartbeat
    totals = EpisodeTotals(task)
    for step in steps(actor, envs, seeds):
        heartbeat[BEAT] += 1
        outcome = totals.add(step)
        if step.done:
            yield outcome
