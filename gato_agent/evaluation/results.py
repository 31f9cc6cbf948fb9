"""What an evaluation found, as data: of each task, of all together, as JSON and as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import write_files
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import parse, record, typed, with_digest, without_digest
from gato_agent.envs.tasks.task import Task, families, find
from gato_agent.evaluation.metrics import Interval, Sample, ci95, normalized

FORMAT = 1
FILE = "results.json"
SETTINGS: dict[str, Any] = {  # types of those that the report shows
    "episodes": int, "seed": int, "temperature": float | dict[str, float], "precision": str,
    "env_kwargs": dict[str, Any],
}  # fmt: skip
OTHER = "other"  # the family of a task that the catalogue does not have


class Outcome(NamedTuple):
    """What came of one episode; `success` is None where the task knows none."""

    seed: int
    total: float
    length: int
    success: bool | None


@dataclass(frozen=True)
class TaskScore:
    """Returns of one task; `normalized` is a fraction, null where it is undefined.

    `success` is the share of episodes that reported it, null where a task knows none. Where episodes end at success
    (Meta-World), `random`, `expert` and `normalized` are of it, otherwise of the return. `returns`, `lengths` and
    `successes` are by seed; `seconds` are of playing.
    """

    task: str
    episodes: int
    mean: float
    std: float
    ci95: Interval
    random: float | None
    expert: float | None
    normalized: float | None
    success: float | None = None
    family: str = OTHER
    normalized_ci95: Interval | None = None
    by_success: bool = False
    steps: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0
    returns: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    successes: tuple[bool, ...] | None = None

    def sample(self) -> Sample | None:
        """The normalised score of each episode, None where it is undefined."""
        achieved = self.successes if self.by_success else self.returns
        if self.normalized is None or not achieved or self.random is None or self.expert is None:
            return None
        return (np.asarray(achieved, np.float64) - self.random) / (self.expert - self.random)


def family_of(task_id: str) -> str:
    """The suite of a task."""
    return (find(task_id) or Task(task_id, OTHER)).suite


def score(task: str, episodes: Sequence[Outcome], *, comparable: bool = True, seconds: float = 0.0) -> TaskScore:
    """Summarise episodes, by seed, beside the catalogue's random and expert scores where they are `comparable`.

    Raises:
        GatoError: a return beyond a float64, of which nothing can be computed.
    """
    for episode in episodes:
        if not math.isfinite(episode.total):
            raise GatoError(f"{task}: seed {episode.seed} has a return of {episode.total}: scale its rewards down")
    known = (find(task) if comparable else None) or Task(task, "")
    random, expert = known.reference(known.random), known.reference(known.expert)
    returns = tuple(episode.total for episode in episodes)
    reported = any(episode.success is not None for episode in episodes)  # some report success only when it is reached
    reached = tuple(bool(episode.success) for episode in episodes if reported)
    mean, success = float(np.mean(returns)), float(np.mean(reached)) if reached else None
    achieved = success if known.by_success else mean
    steps, between = sum(episode.length for episode in episodes), ci95(returns)
    counted = ci95([float(each) for each in reached]) if known.by_success and reached else between
    low, high = (normalized(bound, random, expert) for bound in counted)
    return TaskScore(
        task, len(returns), mean, float(np.std(returns)), between, random, expert,
        None if achieved is None else normalized(achieved, random, expert), success,
        family_of(task), None if low is None or high is None else (low, high),
        known.by_success, steps, seconds, steps / seconds if seconds else 0.0,
        returns, tuple(episode.length for episode in episodes), reached or None,
    )  # fmt: skip


@dataclass
class Results:
    """An evaluation of one actor, complete or not.

    Attributes:
        actor: the checkpoint or expert, as the user named it.
        checkpoint: its reference, None for the shipped weights or an expert.
        sha256: digest of its weights, None for an expert without a file.
        settings: all that decides the figures but for the weights. Of a file they are words to show and to compare:
            `recorded.recorded` passes them through the gate before anything is played.
        versions: of the packages that they hang on.
        tasks: those that were evaluated.
        failed: why others broke off.
        not_evaluated: why others could not be tried: a missing extra, or a checkpoint that does not know them.
    """

    actor: str
    checkpoint: str | None
    sha256: str | None
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, TaskScore] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    not_evaluated: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, tasks by name; inverse of `from_json`."""
        reasons = {name: dict(sorted(getattr(self, name).items())) for name in ("failed", "not_evaluated")}
        return {"format": FORMAT, **asdict(self), "tasks": list(map(asdict, self.scores())), **reasons}

    def scores(self) -> list[TaskScore]:
        """The evaluated tasks by name: tasks come in the order in which they end, and nothing may depend on it."""
        return [self.tasks[task] for task in sorted(self.tasks)]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote; raises LookupError, TypeError or ValueError for anything else."""
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r:.80}, and this version reads {FORMAT}")
        entries = typed(data["tasks"], list[Any], "tasks")
        tasks = {task.task: task for task in map(_task, entries)}
        if len(tasks) < len(entries):
            raise ValueError("a task that is there twice")
        others = {each.name: data[each.name] for each in fields(cls) if each.name != "tasks"}
        found = record(cls, {**others, "tasks": {}})
        for name in sorted(SETTINGS.keys() & found.settings.keys()):
            typed(found.settings[name], SETTINGS[name], f"settings {name}")
        found.tasks = tasks
        return found

    def save(self, path: Path, more: Mapping[str, Any] | None = None) -> None:
        """Write the JSON file, whole or not at all; `more` is for those who read it and is not read back."""
        write_files({path: with_digest({**self.to_json(), **(more or {})}, indent=1)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a results file, or a folder that `evaluate --out` wrote.

        Raises:
            UsageError: nothing is there.
            GatoError: it is damaged, or of another kind or version.
        """
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise UsageError(f"no results at {path}: give a folder or file that `gato-agent evaluate --out` wrote")
        try:
            data = parse(path.read_bytes())
            other = isinstance(data, dict) and data.get("format") != FORMAT  # whose digest may be another, too
            return cls.from_json(data if other else without_digest(data))
        except (AttributeError, GatoError, LookupError, TypeError, ValueError) as error:
            raise GatoError(
                f"{path} is damaged or not a results file ({error}): delete it, or evaluate into another folder"
            ) from error


def _task(entry: dict[str, Any]) -> TaskScore:
    """A task's score from its JSON; raises ValueError for what `score` does not make, NotPlain for no id."""
    task = record(TaskScore, entry)
    plain.env_id(task.task, "a task", "evaluate again into another folder")
    if task.family not in (*families(), OTHER):
        raise ValueError(f"{task.task} of an unknown family {task.family!r:.80}")
    for name, values in (("returns", task.returns), ("lengths", task.lengths)):
        if not task.episodes == len(values) > 0:
            raise ValueError(f"{task.task} with {task.episodes} episodes and {len(values)} {name}")
    if min(task.lengths) < 1 or task.std < 0 or task.steps < 0 or task.seconds < 0:
        raise ValueError(f"{task.task} with a length, spread or time that cannot be")
    if task.successes is not None and not 0 < len(task.successes) <= task.episodes:
        raise ValueError(f"{task.task} with {len(task.successes)} successes of {task.episodes} episodes")
    if task.normalized is not None and (task.random is None or task.expert is None or task.expert <= task.random):
        raise ValueError(f"{task.task} with a score between {task.random} and {task.expert}")
    return task


COLUMNS = (
    "task", "family", "episodes", "mean", "std", "low", "high", "success", "random", "expert", "normalized",
    "normalized_low", "normalized_high", "steps", "seconds", "steps_per_second", "status",
)  # fmt: skip


def to_csv(results: Results) -> bytes:
    """One row a task, also of those that failed or were not evaluated; a figure that is undefined is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for task in results.scores():
        low, high = task.normalized_ci95 or (None, None)
        bounds = {"low": task.ci95[0], "high": task.ci95[1], "normalized_low": low, "normalized_high": high}
        writer.writerow(asdict(task) | bounds | {"status": "evaluated"})
    for status, reasons in (("failed", results.failed), ("not evaluated", results.not_evaluated)):
        for task_id, reason in sorted(reasons.items()):
            writer.writerow({"task": task_id, "family": family_of(task_id), "status": f"{status}: {reason}"})
    return text.getvalue().encode()
