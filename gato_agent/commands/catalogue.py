"""The verb `envs`: the catalogue of tasks with their spaces, experts and scores."""

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Column, Table

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import write_files
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.make import make
from gato_agent.envs.spaces.flatten import space_to_json
from gato_agent.envs.tasks.task import Score, Task, catalogue, families, is_installed
from gato_agent.rollouts.experts.load import shipped


@dataclass(frozen=True)
class EnvsConfig:
    """List the tasks of the catalogue; any other Gymnasium id can be used too."""

    suite: tuple[str, ...] = ()
    """Suites to list, such as metaworld or babyai; by default all."""
    json: Path | None = None
    """JSON file for the list, with each task's spaces, for which every environment is made once."""


def envs(config: EnvsConfig) -> list[Task]:
    """Print the catalogue and write the JSON file.

    Raises:
        UsageError: an unknown family.
    """
    for name in config.suite:
        if name not in families():
            raise UsageError(f"--suite {name}: no such family; there are {', '.join(families())}")
    tasks = [task for task in catalogue().values() if task.suite in (config.suite or families())]
    plain_console().print(table(tasks))
    if config.json:
        entries = [{**entry(task), **spaces(task)} for task in tasks]
        write_files({config.json: json.dumps({"tasks": entries}, indent=1).encode()})
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


def table(tasks: list[Task]) -> Table:
    """Table of tasks."""
    shown = Table(Column("task", no_wrap=True), "family", "observations", "actions", box=box.SIMPLE, padding=0)
    shown.add_column("tokens", justify="right")
    for name in ("installed", "expert"):
        shown.add_column(name, no_wrap=True)
    for name in ("random", "score"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.title = f"{len(tasks)} tasks"
    shown.caption = (
        "tokens: of one timestep. score: the expert's mean return over 100 episodes; with a %: its success rate. "
        "Not installed: pip install 'gato-agent[NAME]'."
    )
    for task in tasks:
        expert = expert_of(task)
        shown.add_row(
            task.id, task.suite, task.observes, task.acts, str(task.tokens_per_timestep or "-"),
            "yes" if is_installed(task) else f"no: {task.extra}", expert["kind"] if expert else "-",
            _mean(task.random), _mean(task.expert),
        )  # fmt: skip
    return shown


def _mean(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score.mean:,.1f}" + ("" if score.success is None else f" {score.success:.0%}")
