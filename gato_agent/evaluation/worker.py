"""Play one task's episodes: what a worker of `evaluate` does, in this process, in another, or on another machine."""

import contextlib
import hashlib
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from gymnasium.vector import VectorEnv

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.make import find_spec, make_vector
from gato_agent.envs.spaces.values import success_of
from gato_agent.envs.tasks.task import Task, find
from gato_agent.evaluation.results import Outcome
from gato_agent.inference.decoder import Precision
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.inference.options import resolve_device
from gato_agent.rollouts.collection import episode_worker as player
from gato_agent.rollouts.collection.episode_worker import BEAT, JOB, NOTHING, SEED, STEP, Failed
from gato_agent.rollouts.experts.load import Expert, load_expert
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.storage.writer import Played
from gato_agent.tokens.prompt import Kind

_log = logging.getLogger(__name__)

ActorAndEnvs = contextlib.AbstractContextManager[tuple[Actor, VectorEnv[Any, Any, Any]]]


@dataclass(frozen=True)
class EvaluationSettings:
    """Who plays, and how: the same for every task of an evaluation.

    Attributes:
        checkpoint: reference of a checkpoint, None for the shipped weights.
        expert: who plays instead, as `load_expert` takes it.
        sha256: digest of the weights; others are not played.
        episodes: of each task.
        seed: of the first episode.
        n_envs: environments at most.
        temperature: as `Agent` takes it, or each task's own: those above 0 by task.
        device: as `Agent` takes it, like precision and prompt.
        precision: see device.
        prompt: see device.
        demo: folder with demonstrations, as `make_agent_and_envs` takes it.
        num_threads: of torch; None leaves them as they are.
        env_kwargs: arguments of the environments; by default those that the agent was trained with.
        statistics: of an SB3 expert, as `load_expert` takes them.
        wrappers: likewise.
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

    def settings(self) -> dict[str, Any]:
        """What decides the figures, but for the weights: results of others are not mixed with these."""
        names = ["expert", "episodes", "seed", "temperature", "precision", "prompt", "env_kwargs"]
        if self.temperature:  # an environment's noise goes on from episode to episode
            names.append("n_envs")
        if self.expert:
            names += ["statistics", "wrappers"]
        return {**{name: getattr(self, name) for name in names}, "demo": None if self.demo is None else str(self.demo)}

    def num_envs(self) -> int:
        """Environments that share the episodes evenly: one that has none left costs as much as one that plays."""
        rounds = -(-self.episodes // self.n_envs)
        return -(-self.episodes // rounds)


def expert_sha256(expert: str | None) -> str | None:
    """SHA-256 of an expert's file, None where it has none."""
    path = Path(expert or "")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@dataclass(frozen=True)
class EvaluationJob:
    """A task to be played; `env` is as the user named it, perhaps with a module to import."""

    env: str
    env_id: str
    settings_of_run: EvaluationSettings

    def where(self, seed: int, step: int) -> str:
        """How far it was, in a message."""
        return f"after {step} of {self.settings_of_run.episodes} episodes it"


class ActorFactory:
    """Makes actors and their environments; a checkpoint is loaded once."""

    def __init__(self) -> None:
        self._checkpoint: Checkpoint | None = None

    def make(self, job: EvaluationJob, num_envs: int, render_mode: str | None = None) -> ActorAndEnvs:
        """The actor of a job and its environments, which are closed afterwards.

        Raises:
            UsageError: what is asked cannot be: an unknown task, a missing package, a render mode that there is not.
            GatoError: the environment cannot be made, or the weights are no longer those of the job.
        """
        how = job.settings_of_run
        if how.num_threads:
            torch.set_num_threads(how.num_threads)
        find_spec(job.env)  # imports the module that the user named
        if how.expert:
            return _expert(job, render_mode)
        device = resolve_device(how.device)
        checkpoint = self._load(how, device)
        temperature = None if isinstance(how.temperature, dict) else how.temperature
        if job.env_id not in checkpoint.tasks:
            _check_spaces(checkpoint, job)
        return make_agent_and_envs(
            checkpoint, job.env_id, num_envs, env_kwargs=how.env_kwargs, render_mode=render_mode, device=device,
            temperature=temperature, seed=how.seed, precision=how.precision, prompt=how.prompt, demo=how.demo,
        )  # fmt: skip

    def _load(self, how: EvaluationSettings, device: str) -> Checkpoint:
        if self._checkpoint is None:
            loaded = Checkpoint.load(how.checkpoint, device)
            if how.sha256 not in (None, loaded.sha256()):
                raise GatoError(f"{loaded.name} changed while it was evaluated: repeat the command")
            self._checkpoint = loaded
        return self._checkpoint


def _check_spaces(checkpoint: Checkpoint, job: EvaluationJob) -> None:
    """Raise UsageError unless an unknown task has a known one's spaces; one environment tells, and many take long."""
    with contextlib.closing(make_vector(job.env_id, 1, env_kwargs=job.settings_of_run.env_kwargs)) as envs:
        try:
            find_task(checkpoint, envs)
        except UsageError as error:
            raise UsageError(f"{job.env_id}: {checkpoint.name} was not trained on it") from error


@contextlib.contextmanager
def _expert(job: EvaluationJob, render_mode: str | None) -> Iterator[tuple[Actor, VectorEnv[Any, Any, Any]]]:
    """An expert and its environment: one environment, as it is collected from."""
    how, kwargs = job.settings_of_run, job.settings_of_run.env_kwargs
    if how.sha256 not in (None, expert_sha256(how.expert)):
        raise GatoError(f"the expert {how.expert} is no longer the one that was evaluated: evaluate it again")
    with contextlib.closing(make_vector(job.env_id, 1, env_kwargs=kwargs, render_mode=render_mode)) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        expert = load_expert(
            how.expert or "", job.env_id, *spaces, how.seed, envs=envs, env_kwargs=kwargs,
            statistics=how.statistics, wrappers=how.wrappers,
        )  # fmt: skip
        expert.seed(how.seed)
        yield expert, envs


class EvaluationWorker:
    """Measures any of several tasks, one after the other."""

    def __init__(self, jobs: Sequence[EvaluationJob]) -> None:
        self._jobs, self._actors = jobs, ActorFactory()

    def play(self, job: int, seeds: Sequence[int], heartbeat: MutableSequence[int]) -> Iterator[player.Result]:
        """Yield the one result of a task, as JSON: its episodes, or why they cannot be had."""
        heartbeat[JOB], heartbeat[SEED], heartbeat[STEP] = job, NOTHING, 0
        task, began = self._jobs[job], time.perf_counter()
        outcome: dict[str, Any] = {}
        try:
            with self._actors.make(task, task.settings_of_run.num_envs()) as (actor, envs):
                heartbeat[BEAT] += 1
                heartbeat[SEED], began = seeds[0], time.perf_counter()
                outcome = {"episodes": _played(task, actor, envs, heartbeat), "seconds": time.perf_counter() - began}
        except Exception as error:  # noqa: BLE001  # said with its task; all others go on
            if outcome:  # all is played, and only closing the environments failed
                _log.warning("%s", named(task.env_id, error))
            elif isinstance(error, UsageError):  # not a fault: nothing that could be evaluated
                outcome = {"skipped": str(error)}
            else:
                yield Failed(job, seeds[0], named(task.env_id, error))
                return
        finally:
            heartbeat[JOB] = heartbeat[SEED] = NOTHING
        yield Played(job, seeds[0], json.dumps(outcome).encode(), 0, 0.0, time.perf_counter() - began)


def named(env_id: str, error: Exception) -> str:
    """What went wrong, in a line that begins with the environment."""
    return str(error) if isinstance(error, GatoError) else f"{env_id}: {one_line(error)}"


def _played(
    job: EvaluationJob, actor: Actor, envs: VectorEnv[Any, Any, Any], heartbeat: MutableSequence[int]
) -> list[Outcome]:
    """Play a task's episodes; they are in the order of their seeds."""
    how, episodes = job.settings_of_run, list[Outcome]()
    seeds = range(how.seed, how.seed + how.episodes)
    for group in [[seed] for seed in seeds] if how.expert else [seeds]:
        if how.expert:
            cast(Expert, actor).seed(group[0])  # as when it is collected from
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
    """Play one episode per seed and yield each as it ends; the heartbeat moves with every step."""
    counts = (find(task) or Task(task, "")).success is not None  # where it counts, none reported is none reached
    heartbeat = [0] * 4 if heartbeat is None else heartbeat
    total: dict[int, float] = defaultdict(float)
    reached: dict[int, bool | None] = defaultdict(lambda: False if counts else None)
    for step in steps(actor, envs, seeds):
        heartbeat[BEAT] += 1
        total[step.seed] += step.reward
        if (reported := success_of(step.info)) is not None:
            reached[step.seed] = bool(reached[step.seed]) or reported
        if step.done:
            success = reached[step.seed]
            del reached[step.seed]
            yield Outcome(step.seed, total.pop(step.seed), step.t + 1, success)
