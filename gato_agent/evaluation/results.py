"""Results of an evaluation: scores by task, and their JSON and CSV files."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import read_named, write_files
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import parse, record, typed, with_digest, without_digest
from gato_agent.envs.suggested_commands import suggest
from gato_agent.envs.tasks.task import families
from gato_agent.evaluation.task_score import OTHER, TaskScore, family_of

FORMAT = 1
FILE = "results.json"
SETTINGS: dict[str, Any] = {  # types of the settings that the report shows
    "episodes": int, "seed": int, "temperature": float | dict[str, float], "precision": str,
    "env_kwargs": dict[str, Any],
}  # fmt: skip


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
            folder = path.parent if path.suffix else path  # a misspelt file of a folder
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
