"""The verb `info tasks`: the catalogue of tasks with their spaces, experts and scores."""

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.io.console import fitted, plain_console
from gato_agent.envs.io.json_output import write_json
from gato_agent.envs.make import make
from gato_agent.envs.spaces.flatten import space_to_json
from gato_agent.envs.tasks.task import Score, Task, catalogue, families, is_installed
from gato_agent.rollouts.experts.load import shipped

OPTIONAL = (
    "observations",
    "actions",
    "family",
    "random",
    "tokens",
    "installed",
    "expert",
)  # narrow: the first go first


@dataclass(frozen=True)
class EnvsConfig:
    """List the tasks of the catalogue; any other Gymnasium id can be used too."""

    suite: tuple[str, ...] = ()
    """Suites to list, such as metaworld or babyai; by default all."""
    json: Path | None = None
    """JSON file for the list, or - for standard output, with each task's spaces, for which every environment is made
    once."""


def envs(config: EnvsConfig) -> list[Task]:
    """Print the catalogue and write the JSON file.

    Raises:
        UsageError: an unknown family.
    """
    for name in config.suite:
        if name not in families():
            raise UsageError(f"--suite {name}: no such family; there are {', '.join(families())}")
    tasks = [task for task in catalogue().values() if task.suite in (config.suite or families())]
    console = plain_console()
    console.print(table(tasks, console))
    if config.json:
        entries = [{**entry(task), **spaces(task)} for task in tasks]
        write_json(config.json, {"tasks": entries}, indent=1)
    return tasks


def expert_of(task: Task) -> dict[str, str] | None:
    """Kind and source of a task's expert, None if none is available."""
    available = task.id in shipped() if task.expert_kind == "catalogue" else is_installed(task)
    if task.expert_kind is None or not available:
        return None
    return {"kind": task.expert_kind, "source": task.expert_source or task.expert_kind}


def entry(task: Task) -> dict[str, Any]:
    """JSON entry of a task, without its spaces."""
    return {
        "task": task.id,
        "family": task.suite,
        "tokens_per_timestep": task.tokens_per_timestep,
        "installed": is_installed(task),
        "extra": task.extra,
        "horizon": task.horizon,
        "expert": expert_of(task),
        "random": _score(task.random),
        "expert_score": _score(task.expert),
    }


def _score(score: Score | None) -> dict[str, Any] | None:
    return None if score is None else {key: value for key, value in asdict(score).items() if value is not None}


def spaces(task: Task) -> dict[str, Any]:
    """Spaces of a task as JSON, null if its environment cannot be made."""
    try:
        with closing(make(task.id)) as env:
            env_spaces = env.observation_space, env.action_space
            return dict(zip(("observation_space", "action_space"), map(space_to_json, env_spaces), strict=True))
    except GatoError:
        return {"observation_space": None, "action_space": None}


def table(tasks: list[Task], console: Console) -> Table:
    """Table of tasks, with fewer columns on a narrow console."""
    right = {"tokens", "random", "score"}
    names = ("task", "family", "observations", "actions", "tokens", "installed", "expert", "random", "score")
    rows = []
    for task in tasks:
        expert = expert_of(task)
        rows.append((
            task.id, task.suite, task.observes or "", task.acts or "", str(task.tokens_per_timestep or "-"),
            "yes" if is_installed(task) else f"no: {task.extra}", expert["kind"] if expert else "-",
            _mean(task.random), _mean(task.expert),
        ))  # fmt: skip
    caption = (
        "tokens: of one timestep in the paper's sizes; `info env` has those of each size. "
        "score: the expert's mean return over 100 episodes; with a %: its success rate. "
        "Not installed: pip install 'gato-agent[NAME]'."
    )
    columns = [Column(name, justify="right" if name in right else "left") for name in names]
    return fitted(console, columns, rows, OPTIONAL, title=f"{len(tasks)} tasks", caption=caption)


def _mean(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score.mean:,.1f}" + ("" if score.success is None else f" {score.success:.0%}")
