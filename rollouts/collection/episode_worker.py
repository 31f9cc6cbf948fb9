"""Play the episode of a seed: what every worker does, in this process, in another, or on another machine."""

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
from gato_agent.envs.spaces.values import column_holder, success_of
from gato_agent.rollouts.collection.dagger import Guided, Learner
from gato_agent.rollouts.collection.noise import Noisy
from gato_agent.rollouts.experts.load import NO_NETWORK, Expert, load_expert
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.writer import Played

JOB, SEED, STEP, BEAT = range(4)  # places in a heartbeat: what is being played, and a count that moves with every step
NOTHING = -1


@dataclass(frozen=True)
class CollectJob:
    """All that it takes to play any episode of a task, anywhere.

    Attributes:
        env: the environment as the user named it, perhaps with a module to import.
        expert: its name, as `load_expert` takes it.
        seed: of random actions and of training.
        folder: where trained experts are kept.
        train_steps: of an expert that is to be trained.
        num_threads: of the expert's network.
        header: what task.json says.
        learner: an agent that acts while the expert says what it would do; None where the expert acts itself.
        statistics: of an SB3 expert, as `load_expert` takes them.
        wrappers: likewise.
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

    @property
    def env_id(self) -> str:
        """The registered id."""
        return str(self.header["env_id"])

    def where(self, seed: int, step: int) -> str:
        """How far an episode was, in a message."""
        return f"step {step} of seed {seed}"


@dataclass(frozen=True)
class Failed:
    """A seed that gave no episode, and why; without a seed, the job cannot be played at all."""

    job: int
    seed: int | None
    reason: str


Result = Played | Failed


def untried(job: int, env_id: str, seeds: int) -> list[Failed]:
    """What is said of seeds that are not tried, because all before them have failed; nothing if there are none."""
    return [Failed(job, None, f"{env_id}: no seed could be played, so {seeds:,} more were not tried")] if seeds else []


class Player:
    """One environment and its expert, ready to play any episode of a job."""

    def __init__(self, job: CollectJob) -> None:
        """Make them; raises GatoError, also where the expert is no longer the one of the header."""
        if job.learner is not None or job.header["expert"]["kind"] not in NO_NETWORK:
            import torch

            torch.set_num_threads(job.num_threads)  # of this process: a worker begins with one for each core
        kwargs = job.header["env_kwargs"]
        self.job = job
        self._envs = make_vector(job.env, 1, env_kwargs=kwargs)
        self._space = self._envs.single_action_space
        self._one = only_one(self._space)
        self._observed, self._acted = stacker(self._envs.single_observation_space), stacker(self._space)
        self._hold = column_holder(self._space, acted=True)
        expert = load_expert(
            job.expert, job.env_id, self._envs.single_observation_space, self._space, job.seed,
            envs=self._envs, env_kwargs=kwargs, folder=job.folder, train_steps=job.train_steps,
            statistics=job.statistics, wrappers=job.wrappers,
        )  # fmt: skip
        if expert.provenance != job.header["expert"]:
            raise GatoError(f"{job.env_id}: the expert {job.expert} changed while it was in use: repeat the command")
        self._actor: Expert | Noisy | Guided = expert
        if job.learner is not None:
            self._actor = Guided(job.learner.make(self._envs), expert, job.header["learner"])
        elif job.header["noise"]:
            self._actor = Noisy(expert, self._space)

    def close(self) -> None:
        """Close the environment."""
        with contextlib.suppress(Exception):  # one that has failed may fail again, and everything has been said
            self._envs.close()

    def play(self, seed: int, heartbeat: MutableSequence[int]) -> Episode:
        """Play the episode of one seed: a pure function of the seed, whatever was played before.

        Args:
            seed: of the environment, the expert, and the noise or turns.
            heartbeat: is told after every step how far it is.

        Raises:
            GatoError: the environment or the expert failed; the message names environment, seed and step.
        """
        actor = self._actor
        actor.seed(seed)
        pushed = actor if isinstance(actor, Noisy | Guided) else None  # off the expert's path
        last: Step | None = None
        observed: list[Any] = []
        executed: list[Any] = []
        labels: list[Any] = []
        rewards: list[float] = []
        success: bool | None = None
        for step in steps(actor, self._envs, [seed]):
            if last is not None and isinstance(actor, Guided) and actor.lost:
                break  # there is nothing to learn from here on
            last = step
            observed.append(step.obs)
            executed.append(step.action)
            rewards.append(step.reward)
            if (reported := success_of(step.info)) is not None:
                success = success or reported
            if pushed is not None:
                labels.append(self._one(pushed.label))
            heartbeat[STEP] = len(executed)
            heartbeat[BEAT] += 1
        assert last is not None  # an episode has at least one step
        actions = self._held_actions(executed, seed)
        provenance = {key: self.job.header[key] for key in ("env_id", "env_kwargs", "expert", "versions")}
        if isinstance(actor, Guided):
            provenance["learner"] = self.job.header["learner"]
        else:
            provenance["noise"] = actor.level if isinstance(actor, Noisy) else 0.0
        return Episode(
            observations=self._observed([*observed, last.next_obs]),
            actions=actions,
            labels=_differing(self._held_actions(labels, seed), actions) if pushed else None,
            rewards=np.array(rewards, np.float64),
            terminated=last.terminated,
            truncated=last.truncated or not last.done,
            success=success,
            seed=seed,
            provenance=provenance,
        )

    def _held_actions(self, actions: list[Any], seed: int) -> Columns:
        """Actions as columns; raises GatoError for the first that is not in its space: nothing could learn from it."""
        try:
            return self._hold(self._acted(actions))
        except SpaceError as error:
            step = "" if error.row is None else f"step {error.row} of "
            raise GatoError(
                f"{self.job.env_id}: {step}seed {seed}: the expert's action is not in {self._space}: {error}; "
                "clip or round it in the expert"
            ) from error


def _differing(labels: Columns, actions: Columns) -> Columns | None:
    """The labels, or None if they are the actions throughout."""
    return None if all(np.array_equal(labels[path], actions[path]) for path in actions) else labels


class Players:
    """Plays chunks of any of several jobs, keeping the latest one's environment and expert."""

    def __init__(self, jobs: Sequence[CollectJob]) -> None:
        self._jobs = jobs
        self._player: Player | None = None

    def play(self, job: int, seeds: Sequence[int], heartbeat: MutableSequence[int]) -> Iterator[Result]:
        """Play episodes of one job; a seed that fails is told, and the next is played in a new environment."""
        heartbeat[JOB], heartbeat[SEED] = job, NOTHING
        for seed in seeds:
            try:
                player = self._ready(self._jobs[job])
            except Exception as error:  # noqa: BLE001  # said with its job; all others go on
                said = str(error) if isinstance(error, GatoError) else f"{self._jobs[job].env_id}: {one_line(error)}"
                yield Failed(job, None, said)
                return
            heartbeat[BEAT] += 1  # before the seed: who watches must not take the time until now for the episode's
            heartbeat[STEP], heartbeat[SEED] = 0, seed
            result = self._result(player, job, seed, heartbeat)
            heartbeat[SEED] = NOTHING  # before it is handed over: it must not be blamed for what happens later
            heartbeat[BEAT] += 1
            yield result

    def _result(self, player: Player, job: int, seed: int, heartbeat: MutableSequence[int]) -> Result:
        began = time.perf_counter()
        try:
            episode = player.play(seed, heartbeat)
            encoded = episode.encode()
        except Exception as error:  # noqa: BLE001  # said with its seed; all others go on
            self.close()
            said = str(error) if isinstance(error, GatoError) else one_line(error)
            named = f"{player.job.env_id}: "
            return Failed(job, seed, said if said.startswith(named) else f"{named}seed {seed}: {said}")
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
    """A heartbeat that nobody watches."""
    return [NOTHING, NOTHING, 0, 0]
