"""The verb `improve`: filtered cloning of an agent's own episodes, in rounds, resumable."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gato_agent.checkpoints.checkpoint import FILE as MODEL
from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.collect import Trained
from gato_agent.envs.errors import GatoError, UsageError, reason
from gato_agent.envs.files import lock_folder, read_named, write_files
from gato_agent.envs.io.console import plural, print_line
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.envs.suggested_commands import suggest
from gato_agent.envs.tasks.task import find
from gato_agent.evaluation.metrics import FIRST_SEED
from gato_agent.evaluation.task_score import TaskScore
from gato_agent.improving.choice import choose
from gato_agent.improving.config import ImproveConfig
from gato_agent.improving.curve import describe, show, write_curve
from gato_agent.improving.progress import Progress, Round, ending
from gato_agent.improving.selection import all_equal, statistics
from gato_agent.improving.stages import Stages
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.training.validation import FIRST_SEED as HELD_OUT

__all__ = ["ImproveConfig", "improve"]


def improve(config: ImproveConfig) -> Progress:
    """Improve an agent, or go on with it; returns the finished rounds.

    Raises:
        UsageError: an option out of range, no demonstrations, a checkpoint of other spaces, or a folder that was begun
            with other options.
        GatoError: no episode of a round is a success; or an environment, a file or a training failed. Finished rounds
            and episodes are saved.
    """
    config.check()
    with closing(lock_folder(config.out, "improve")):
        try:
            return Improvement(config).to_the_end()
        except BrokenPipeError:  # the reader of standard output has ended
            raise
        except OSError as error:
            raise GatoError(
                f"{reason(error)}: finished rounds and episodes are saved in {config.out}; mend the cause, such as a "
                "full disk, and the same command goes on"
            ) from error


class Improvement:
    """An improvement in a folder.

    Attributes:
        progress: finished rounds.
    """

    def __init__(self, config: ImproveConfig) -> None:
        """Read demonstrations, first agent and finished rounds; raises as `improve`."""
        self.config = config
        env_id = find_spec(config.env).id
        self._demonstrations = demonstrations(config.data, env_id)
        self._init = Trained.named(config.init) if config.init else None
        self._known = self._init is not None and self._init.knows(env_id)
        if not self._known and not self._demonstrations:
            raise UsageError(
                f"{config.init} does not know {env_id}: add --data with episodes of it, on which it is trained first"
            )
        self._stages = Stages(config, env_id, self._arguments(env_id))
        by_success, shown = self._by_success(), self._shown()
        self.progress = dataclasses.replace(
            Progress.load(config.out, self._settings()), by_success=by_success, demonstrations=shown
        )
        self._seconds: dict[str, float] = {}

    def to_the_end(self) -> Progress:
        """Play the missing rounds until they no longer help, then compare the best agent with the first."""
        config = self.config
        if not self.progress.rounds:
            self._finish(self._first_round())
        while not (end := ending(self.progress, config.patience)) and len(self.progress.rounds) <= config.rounds:
            result = self._round(len(self.progress.rounds))
            if result is None:
                end = "all tries of a round have the same return, so that there is nothing to select"
                break
            self._finish(result)
        self.progress = self._compared(end or f"{plural(config.rounds, 'round')} played")
        self.progress.save(config.out)
        show(config.out, self._stages.env_id, self.progress)
        return self.progress

    def _agent(self, number: int) -> Path:
        """Checkpoint of a round's agent."""
        if number == 0 and self._known and self._init is not None:
            return self._init.path
        return self._stages.folder(number) / "agent"

    def _first_round(self) -> Round:
        """Train the first agent unless it is given, and evaluate it."""
        if not self._known:
            shown = sum(len(store.indices()) for store in self._demonstrations)
            print_line(f"round 0: training the first agent on {shown} demonstrations")
            with self._timed("training"):
                folders = [store.folder for store in self._demonstrations]
                self._stages.train(0, folders, self._init.path if self._init else None)
        return self._evaluated(0)

    def _round(self, number: int) -> Round | None:
        """Play, select, train and evaluate; None if there is nothing to select.

        Raises:
            GatoError: no episode is a success.
        """
        config, start = self.config, self._agent(self.progress.start.number)
        print_line(f"round {number}: {config.episodes} seeds, {config.tries} tries each")
        with self._timed("playing"):
            tries = [statistics(store) for store in self._stages.play(number, start)]
        groups = [[store] for store in self._demonstrations]
        groups += [self._stages.tries(each) for each in range(1, number + 1)]
        choice = choose(groups, config.stretch, config.bar)
        if choice is None:
            raise GatoError(self._no_success(number))
        if all_equal(tries):
            return None
        shown = sum(part.store < len(self._demonstrations) for part in choice.parts)
        print_line(
            f"round {number}: training on {len(choice.parts):,} {choice.kind} of at least {choice.bar:.2f}; {shown:,} "
            "of them are demonstrations"
        )
        with self._timed("training"):
            self._stages.train(number, [self._stages.select(number, choice.stores, choice.parts)], start)
        stats = [each for many in tries for each in many.values()]
        return self._evaluated(
            number, episodes=len(stats), steps=sum(each.steps for each in stats), selected=len(choice.parts),
            demonstrations=shown, bar=choice.bar,
        )  # fmt: skip

    def _evaluated(self, number: int, **counts: Any) -> Round:
        """Result of a round: its agent on the held-out seeds."""
        with self._timed("evaluating"):
            task = self._stages.evaluate(self._agent(number), HELD_OUT, self._stages.folder(number) / "results")
        return Round(number, _scores(task), task.mean, False, seconds=self._seconds, **counts)

    def _finish(self, result: Round) -> None:
        """Record a round; its agent becomes OUT/best if it is better than all before it."""
        self._seconds = {}
        progress = self.progress.with_round(result)
        if progress.best.number == result.number:
            path = self._agent(result.number)
            write_files({self.config.out / "best" / MODEL: read_named(path / MODEL if path.is_dir() else path)})
        progress.save(self.config.out)
        self.progress = progress
        print_line(f"round {result.number}: {describe(progress, result.number)}")
        write_curve(self.config.out, self._stages.env_id, progress)

    def _compared(self, end: str) -> Progress:
        """Progress with its end, and the scores of the first and the best agent on seeds that chose nothing."""
        numbers = {"first": 0, "best": self.progress.best.number}
        began, test = time.perf_counter(), dict[str, tuple[float, ...]]()
        for name, number in numbers.items():
            out = self._stages.folder(number) / "final-results"
            test[name] = _scores(self._stages.evaluate(self._agent(number), FIRST_SEED, out))
        seconds = self.progress.test_seconds or time.perf_counter() - began
        return dataclasses.replace(self.progress, end=end, test=test, test_seconds=seconds)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[stage] = round(time.perf_counter() - began, 1)

    # Beginning

    def _arguments(self, env_id: str) -> str:
        """Arguments of the environment: those of the command, the demonstrations or the first agent, as JSON."""
        known = [store.env_kwargs for store in self._demonstrations]
        if self._known and self._init is not None:
            known.append(Checkpoint.load(self._init.path).tasks[env_id].env_kwargs)
        given = known[0] if self.config.env_kwargs is None else parse_kwargs(self.config.env_kwargs)
        if other := [each for each in known if each != known[0]]:
            raise UsageError(
                f"{env_id} has the arguments {json.dumps(known[0])} in one of --data and --init, and "
                f"{json.dumps(other[0])} in another: leave one of them out"
            )
        if given != known[0]:
            raise UsageError(
                f"--env-kwargs {json.dumps(given)} are not those of --data or --init: {json.dumps(known[0])}"
            )
        return json.dumps(given)

    def _by_success(self) -> bool:
        """True if the catalogue compares successes, as `evaluate` does."""
        known = find(self._stages.env_id)
        return known is not None and known.by_success and self._stages.env_kwargs == "{}"

    def _shown(self) -> float | None:
        """Mean score of the demonstrations; None without any."""
        by_success = self._by_success()
        stats = [each for store in self._demonstrations for each in statistics(store).values()]
        scores = [float(each.success or 0) if by_success else each.total for each in stats]
        return float(np.mean(scores)) if scores else None

    def _settings(self) -> dict[str, Any]:
        """Options and data that determine the agents."""
        stats = [[seed, *each] for store in self._demonstrations for seed, each in sorted(statistics(store).items())]
        data = hashlib.sha256(json.dumps(stats).encode()).hexdigest() if stats else None
        return {**self.config.settings(), "data": data, "init": self._init.sha256 if self._init else None}

    def _no_success(self, number: int) -> str:
        config = self.config
        return (
            f"{self._stages.env_id}: none of the {config.episodes * config.tries} episodes of round {number} is a "
            f"success, so that there is nothing to learn from: give better or more --data, or more --episodes, --tries "
            f"or --temperature with another --out"
        )


def demonstrations(folders: Sequence[Path], env_id: str) -> list[EpisodeStore]:
    """Stores of a task's demonstrations below some folders.

    Raises:
        UsageError: a folder without episodes of the task.
    """
    stores = [store for folder in folders for store in open_stores(folder) if store.env_id == env_id]
    if folders and not any(statistics(store) for store in stores):
        named, command = ", ".join(map(str, folders)), suggest("collect into", env=env_id, out=folders[0])
        raise UsageError(f"no episodes of {env_id} in {named}: collect some with `{command}`, or choose another --data")
    return stores


def _scores(task: TaskScore) -> tuple[float, ...]:
    """Score of each episode by seed: its return, or its success where the catalogue compares success."""
    if task.by_success and task.successes is not None:
        return tuple(map(float, task.successes))
    return task.returns
