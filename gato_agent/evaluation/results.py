"""Results of an evaluation: episodes, scores by task, and their JSON and CSV files."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import read_named, write_files
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import parse, record, typed, with_digest, without_digest
from gato_agent.envs.suggested_commands import suggest
from gato_agent.envs.tasks.task import Task, families, find
from gato_agent.evaluation.metrics import Interval, Sample, ci95, normalized

FORMAT = 1
FILE = "results.json"
SETTINGS: dict[str, Any] = {  # types of the settings that the report shows
    "episodes": int, "seed": int, "temperature": float | dict[str, float], "precision": str,
    "env_kwargs": dict[str, Any],
}  # fmt: skip
OTHER = "other"  # family of a task outside the catalogue


class Outcome(NamedTuple):
    """Return, length in steps and success of one episode; `success` is None where the task does not report it.

    `terminated` is False if a time limit ended the episode, None where that is not known.
    """

    seed: int
    total: float
    length: int
    success: bool | None
    terminated: bool | None = None


@dataclass(frozen=True)
class TaskScore:
    """Returns and scores of one task.

    Attributes:
        task: its id.
        episodes: number of episodes.
        mean: of the returns.
        std: population standard deviation of the returns.
        ci95: 95% interval of the mean.
        random: score of random actions, None where it is not known.
        expert: score of the expert, None where it is not known.
        normalized: expert-normalised score, None where it is undefined.
        success: share of successful episodes, None where the task does not report success.
        family: suite of the catalogue.
        normalized_ci95: 95% interval of `normalized`.
        by_success: True if `random`, `expert` and `normalized` are of success, as in Meta-World; else of the return.
        steps: number of all steps.
        seconds: wall time of playing.
        steps_per_second: of all parallel environments together.
        returns: by seed.
        lengths: in steps, by seed.
        successes: by seed, None where the task does not report success.
        ended: share of episodes that ended before their time limit, None where it is not known.
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
    ended: float | None = None

    def sample(self) -> Sample | None:
        """Normalised score of each episode, float64 [episodes]; None where it is undefined."""
        achieved = self.successes if self.by_success else self.returns
        if self.normalized is None or not achieved or self.random is None or self.expert is None:
            return None
        return (np.asarray(achieved, np.float64) - self.random) / (self.expert - self.random)


def family_of(task_id: str) -> str:
    """Suite of a task in the catalogue, or `other`."""
    return (find(task_id) or Task(task_id, OTHER)).suite


def score(task: str, episodes: Sequence[Outcome], *, comparable: bool = True, seconds: float = 0.0) -> TaskScore:
    """Score of a task from its episodes.

    Args:
        task: its id.
        episodes: by seed, at least one.
        comparable: True if the catalogue's random and expert scores apply.
        seconds: wall time of playing.

    Raises:
        GatoError: a return is not finite.
    """
    for episode in episodes:
        if not math.isfinite(episode.total):
            raise GatoError(f"{task}: seed {episode.seed} has a return of {episode.total}: scale its rewards down")
    known = (find(task) if comparable else None) or Task(task, "")
    random, expert = known.reference(known.random), known.reference(known.expert)
    returns = tuple(episode.total for episode in episodes)
    reported = any(episode.success is not None for episode in episodes)  # some tasks report success only when it occurs
    reached = tuple(bool(episode.success) for episode in episodes if reported)
    mean, success = float(np.mean(returns)), float(np.mean(reached)) if reached else None
    achieved = success if known.by_success else mean
    steps, between = sum(episode.length for episode in episodes), ci95(returns)
    counted = ci95([float(each) for each in reached]) if known.by_success and reached else between
    low, high = (normalized(bound, random, expert) for bound in counted)
    terminated = [episode.terminated for episode in episodes if episode.terminated is not None]
    return TaskScore(
        task, len(returns), mean, float(np.std(returns)), between, random, expert,
        None if achieved is None else normalized(achieved, random, expert), success,
        family_of(task), None if low is None or high is None else (low, high),
        known.by_success, steps, seconds, steps / seconds if seconds else 0.0,
        returns, tuple(episode.length for episode in episodes), reached or None,
        sum(terminated) / len(terminated) if terminated else None,
    )  # fmt: skip


@dataclass
class Results:
    """Results of an evaluation of one actor, complete or partial.

    Attributes:
        actor: name of the checkpoint or expert, as the user wrote it.
        checkpoint: its reference, None for the shipped weights or an expert.
        sha256: digest of its weights, None for an expert without a file.
        settings: `EvaluationSettings.fingerprint`. If they were read from a file they are only shown and compared:
            `recorded.replay_settings` checks them before anything is played.
        versions: of the packages on which returns depend.
        tasks: scores by task.
        failed: error messages by task.
        not_evaluated: reasons by task, such as a missing extra or a checkpoint that was not trained on it.
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
        """JSON value with tasks sorted by name; inverse of `from_json`."""
        reasons = {name: dict(sorted(getattr(self, name).items())) for name in ("failed", "not_evaluated")}
        return {"format": FORMAT, **asdict(self), "tasks": list(map(asdict, self.scores())), **reasons}

    def scores(self) -> list[TaskScore]:
        """Scores sorted by task: the order in which tasks complete varies."""
        return [self.tasks[task] for task in sorted(self.tasks)]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_json`; raises LookupError, TypeError or ValueError for any other value."""
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r:.80}, and this version reads {FORMAT}")
        entries = typed(data["tasks"], list[Any], "tasks")
        tasks = {task.task: task for task in map(_task, entries)}
        if len(tasks) < len(entries):
            raise ValueError("a task appears twice")
        others = {each.name: data[each.name] for each in fields(cls) if each.name != "tasks"}
        results = record(cls, {**others, "tasks": {}})
        for name in sorted(SETTINGS.keys() & results.settings.keys()):
            typed(results.settings[name], SETTINGS[name], f"settings {name}")
        results.tasks = tasks
        return results

    def save(self, path: Path, more: Mapping[str, Any] | None = None) -> None:
        """Write the JSON file atomically; `more` has further keys, which `load` ignores."""
        write_files({path: with_digest({**self.to_json(), **(more or {})}, indent=1)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a results file, or a folder that `evaluate --out` wrote.

        Raises:
            UsageError: no such file.
            GatoError: the file is damaged, or of another kind or version.
        """
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            folder = path.parent if path.suffix == ".json" else path
            command = suggest("evaluate into", env="CartPole-v1", out=folder)
            raise UsageError(f"no results at {path}: make some with `{command}`")
        try:
            data = parse(read_named(path))
            other = isinstance(data, dict) and data.get("format") != FORMAT  # its digest may be of another kind, too
            return cls.from_json(data if other else without_digest(data))
        except (AttributeError, GatoError, LookupError, TypeError, ValueError) as error:
            raise GatoError(
                f"{path} is damaged or not a results file ({error}): delete it, or evaluate into another folder"
            ) from error


def _task(entry: dict[str, Any]) -> TaskScore:
    """Score of a task from its JSON; raises ValueError for inconsistent values, NotPlain for an invalid id."""
    task = record(TaskScore, entry)
    plain.env_id(task.task, "a task", "evaluate again into another folder")
    if task.family not in (*families(), OTHER):
        raise ValueError(f"{task.task} of an unknown family {task.family!r:.80}")
    for name, values in (("returns", task.returns), ("lengths", task.lengths)):
        if not task.episodes == len(values) > 0:
            raise ValueError(f"{task.task} with {task.episodes} episodes and {len(values)} {name}")
    if min(task.lengths) < 1 or task.std < 0 or task.steps < 0 or task.seconds < 0:
        raise ValueError(f"{task.task} with a length, spread or time out of range")
    if task.successes is not None and not 0 < len(task.successes) <= task.episodes:
        raise ValueError(f"{task.task} with {len(task.successes)} successes of {task.episodes} episodes")
    if task.normalized is not None and (task.random is None or task.expert is None or task.expert <= task.random):
        raise ValueError(f"{task.task} with a score between {task.random} and {task.expert}")
    return task


COLUMNS = (
    "task", "family", "episodes", "mean", "std", "low", "high", "success", "random", "expert", "normalized",
    "normalized_low", "normalized_high", "ended", "steps", "seconds", "steps_per_second", "status",
)  # fmt: skip


def to_csv(results: Results) -> bytes:
    """CSV file with a row for each task, failed ones included; undefined values are empty."""
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
