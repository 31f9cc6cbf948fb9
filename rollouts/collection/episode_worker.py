"""Playing of single episodes by seed, in this process, a worker process or a worker of a cluster."""

import contextlib
import time
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gato_agent.envs.errors import GatoError, SpaceError, one_line
from gato_agent.envs.loop import Step, steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.spaces.batch_of_one import only_one
from gato_agent.envs.spaces.flatten import Columns, stacker
from gato_agent.envs.spaces.step_results import success_of
from gato_agent.envs.spaces.values import column_validator
from gato_agent.rollouts.collection.dagger import Guided, Learner, SampledAgent
from gato_agent.rollouts.collection.noise import Noisy
from gato_agent.rollouts.experts.expert import NO_NETWORK, Expert, Watching, WindowOptions
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.writer import Played

JOB, SEED, STEP, BEAT = range(4)  # entries of a heartbeat: current job, seed and step, and a counter of steps
NOTHING = -1


@dataclass(frozen=True)
class CollectJob:
    """Everything needed to play any episode of a task, in any process.

    Attributes:
        env: name of the environment as the user wrote it, optionally with a module to import.
        expert: the expert, see `spec` of `load_expert`.
        seed: seed of random actions and of training.
        folder: folder of trained experts.
        train_steps: environment steps of training an expert.
        num_threads: threads of the expert's network.
        header: contents of task.json.
        learner: agent that acts while the expert labels (DAgger); None if the expert acts.
        statistics: statistics of an SB3 expert, see `load_expert`.
        wrappers: wrappers of an SB3 expert, see `load_expert`.
        window: options of the window of a person; None for other experts.
        agent: agent that acts in place of `expert`; None for an expert.
    """

    env: str
    expert: str
    seed: int
    folder: Path
    train_steps: int | None
    num_threads: int
    header: dict[str, Any]
    learner: Learner | None = None
    statistics: str | None = None
    wrappers: Wrappers | None = None
    window: WindowOptions | None = None
    agent: SampledAgent | None = None

    @property
    def env_id(self) -> str:
        """Registered id of the environment."""
        return str(self.header["env_id"])

    @property
    def render_mode(self) -> str | None:
        """Render mode of the environment: rgb_array for a person's window."""
        return None if self.window is None else "rgb_array"

    def where(self, seed: int, step: int) -> str:
        """Position in an episode, for messages."""
        return f"step {step} of seed {seed}"


@dataclass(frozen=True)
class Failed:
    """Failure of a seed, with its reason; the seed is None if the whole job cannot be played."""

    job: int
    seed: int | None
    reason: str


Result = Played | Failed


def not_tried(job: int, env_id: str, seeds: int) -> list[Failed]:
    """List of one failure for `seeds` seeds that are skipped because all before them failed; empty for 0."""
    return [Failed(job, None, f"{env_id}: no seed could be played, so {seeds:,} more were not tried")] if seeds else []


class Player:
    """Environment and expert of a job."""

    def __init__(self, job: CollectJob) -> None:
        """Make environment and expert; raises GatoError, also if the expert does not match the header."""
        if job.learner is not None or job.header["expert"]["kind"] not in NO_NETWORK:
            import torch

            torch.set_num_threads(job.num_threads)  # the default of a process is one thread per core
        kwargs = job.header["env_kwargs"]
        self.job = job
        self._envs = make_vector(job.env, 1, env_kwargs=kwargs, render_mode=job.render_mode)
        self._space = self._envs.single_action_space
        self._one = only_one(self._space)
        self._observed, self._acted = stacker(self._envs.single_observation_space), stacker(self._space)
        self._validate = column_validator(self._space, acted=True)
        expert = job.agent.make_expert(self._envs) if job.agent is not None else load_expert(
            job.expert, job.env_id, self._envs.single_observation_space, self._space, job.seed,
            envs=self._envs, env_kwargs=kwargs, folder=job.folder, train_steps=job.train_steps,
            statistics=job.statistics, wrappers=job.wrappers, window=job.window,
        )  # fmt: skip
        if expert.provenance != job.header["expert"]:
            raise GatoError(f"{job.env_id}: the expert {job.expert} changed while it was in use: repeat the command")
        self._expert: Expert = expert
        self._actor: Expert | Noisy | Guided = expert
        if job.learner is not None:
            self._actor = Guided(job.learner.make(self._envs), expert, job.header["learner"])
        elif job.header["noise"]:
            self._actor = Noisy(expert, self._space)

    def close(self) -> None:
        """Close the environment."""
        with contextlib.suppress(Exception):  # a failed environment may fail again, and was reported
            self._envs.close()

    def play(self, seed: int, heartbeat: MutableSequence[int]) -> Episode:
        """Play the episode of one seed, a function of the seed alone.

        Args:
            seed: seed of the environment, the expert, and the noise or stretches.
            heartbeat: updated after every step.

        Raises:
            GatoError: the environment or the expert failed; the message names environment, seed and step.
        """
        actor = self._actor
        actor.seed(seed)
        watch = actor.watch if isinstance(actor, Watching) else None
        labelled = actor if isinstance(actor, Noisy | Guided) else None
        last: Step | None = None
        observed: list[Any] = []
        executed: list[Any] = []
        labels: list[Any] = []
        rewards: list[float] = []
        success: bool | None = None
        lost = False
        for step in steps(actor, self._envs, [seed]):
            lost = bool(getattr(self._expert, "lost", False))
            if lost and last is not None:
                break  # actions and labels without a plan are no demonstration
            last = step
            observed.append(step.obs)
            executed.append(step.action)
            rewards.append(step.reward)
            if (reported := success_of(step.info)) is not None:
                success = success or reported
            if labelled is not None:
                labels.append(self._one(labelled.label))
            if watch is not None:
                watch(step)
            heartbeat[STEP] = len(executed)
            heartbeat[BEAT] += 1
        assert last is not None  # an episode has at least one step
        actions = self._valid_actions(executed, seed)
        return Episode(
            observations=self._observed([*observed, last.next_obs]),
            actions=actions,
            labels=_differing(self._valid_actions(labels, seed), actions) if labelled else None,
            rewards=np.array(rewards, np.float64),
            terminated=last.terminated,
            truncated=last.truncated or not last.done,
            success=success,
            seed=seed,
            provenance=self._provenance() | ({"lost": True} if lost else {}),
        )

    def _provenance(self) -> dict[str, Any]:
        """Provenance of the latest episode: environment, expert, versions, and the learner or the noise level."""
        provenance = {key: self.job.header[key] for key in ("env_id", "env_kwargs", "expert", "versions")}
        if isinstance(self._actor, Guided):
            return provenance | {"learner": self.job.header["learner"]}
        return provenance | {"noise": self._actor.level if isinstance(self._actor, Noisy) else 0.0}

    def _valid_actions(self, actions: list[Any], seed: int) -> Columns:
        """Actions as columns; raises GatoError for the first that is not in its space."""
        try:
            return self._validate(self._acted(actions))
        except SpaceError as error:
            step = "" if error.row is None else f"step {error.row} of "
            remedy = f"; {error.remedy} in the expert" if error.remedy else ""
            raise GatoError(
                f"{self.job.env_id}: {step}seed {seed}: the expert's action is not in {self._space}: {error}{remedy}"
            ) from error


def _differing(labels: Columns, actions: Columns) -> Columns | None:
    """The labels, or None if they equal the actions."""
    return None if all(np.array_equal(labels[path], actions[path]) for path in actions) else labels


class Players:
    """Player of several jobs, which caches the environment and expert of the latest one."""

    def __init__(self, jobs: Sequence[CollectJob]) -> None:
        self._jobs = jobs
        self._player: Player | None = None

    def play(self, job: int, seeds: Sequence[int], heartbeat: MutableSequence[int]) -> Iterator[Result]:
        """Play episodes of one job; a failing seed yields `Failed`, and the next gets a new environment."""
        heartbeat[JOB], heartbeat[SEED] = job, NOTHING
        for seed in seeds:
            try:
                player = self._ready(self._jobs[job])
            except Exception as error:  # noqa: BLE001  # reported as a failure of the job; the other jobs go on
                message = str(error) if isinstance(error, GatoError) else f"{self._jobs[job].env_id}: {one_line(error)}"
                yield Failed(job, None, message)
                return
            heartbeat[BEAT] += 1  # before the seed is set: the time until here must not count against the episode
            heartbeat[STEP], heartbeat[SEED] = 0, seed
            result = self._result(player, job, seed, heartbeat)
            heartbeat[SEED] = NOTHING  # before the result is yielded: later faults are not this seed's
            heartbeat[BEAT] += 1
            yield result

    def _result(self, player: Player, job: int, seed: int, heartbeat: MutableSequence[int]) -> Result:
        began = time.perf_counter()
        try:
            episode = player.play(seed, heartbeat)
            encoded = episode.encode()
        except Exception as error:  # noqa: BLE001  # reported as a failure of the seed; the others go on
            self.close()
            message = str(error) if isinstance(error, GatoError) else one_line(error)
            prefix = f"{player.job.env_id}: "
            return Failed(job, seed, message if message.startswith(prefix) else f"{prefix}seed {seed}: {message}")
        return Played(job, seed, encoded, len(episode), episode.total, time.perf_counter() - began)

    def _ready(self, job: CollectJob) -> Player:
        if self._player is None or self._player.job is not job:
            self.close()
            self._player = Player(job)
        return self._player

    def close(self) -> None:
        """Close the environment, if there is one."""
        if self._player is not None:
            self._player.close()
            self._player = None


def idle_heartbeat() -> list[int]:
    """Heartbeat of a worker that has not begun."""
    return [NOTHING, NOTHING, 0, 0]
