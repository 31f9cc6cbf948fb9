"""Commands that messages suggest; a test parses each of them."""

import json
import shlex
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from gato_agent.envs.io import plain

COMMANDS = {
    "collect": "gato-agent collect --env {env}",
    "collect by training": "gato-agent collect --env {env} --expert train",
    "collect into": "gato-agent collect --env {env} --out {out}",
    "collect a demonstration": "gato-agent collect --env {env} --episodes 1 --out {out}",
    "filter": "gato-agent data filter {folder}",
    "train": "gato-agent train --data {data} --out {out}",
    "fine-tune": "gato-agent train --init {init} --out {out}",
    "play": "gato-agent play --env {env} --checkpoint {checkpoint}",
    "play shipped": "gato-agent play --env {env}",
    "evaluate": "gato-agent evaluate --out {out}",
    "evaluate into": "gato-agent evaluate --env {env} --out {out}",
    "evaluate checkpoint": "gato-agent evaluate --checkpoint {checkpoint} --out {out}",
    "evaluate task": "gato-agent evaluate --env {env} --checkpoint {checkpoint} --out {out}",
    "report": "gato-agent report {results} --out {out}",
    "tasks": "gato-agent info tasks",
    "tasks of a checkpoint": "gato-agent info checkpoint {checkpoint}",
}

NAMED: dict[str, Callable[[Any, str, str], object]] = {  # options of an evaluation, and the check of each in a file
    "checkpoint": plain.checkpoint,
    "expert": plain.expert,
    "demo": plain.path,
    "expert_statistics": plain.path,
    "env_kwargs": plain.env_kwargs,
}


def suggest(name: str, **values: object) -> str:
    """A command with its values, quoted for a shell.

    Args:
        name: key of `COMMANDS`.
        values: of its placeholders.
    """
    return COMMANDS[name].format(**{key: shlex.quote(str(value)) for key, value in values.items()})


def next_command(verb: str, config: Any) -> str | None:
    """Command that usually follows a verb that has ended with these options; None where there is none."""
    if verb == "collect":
        return suggest("train", data=config.out, out="runs/gato")
    if verb == "train":
        command = suggest("evaluate checkpoint", checkpoint=config.out, out=config.out / "results")
        return f"{command}{_own_tasks(config)}"
    if verb == "improve":
        return suggest("play", env=config.env, checkpoint=config.out / "best")
    if verb == "evaluate" and config.out:
        command = suggest("report", results=config.out, out=config.out / "report")
        return " ".join([command, *map(shlex.quote, _named_again(config))])
    if verb == "play" and not config.expert:
        return suggest("evaluate task", env=config.env, checkpoint=config.checkpoint or "shipped", out="results")
    return None


def _named_again(config: Any) -> list[str]:
    """Options of an evaluation that its videos need again, because no results file may name their values."""
    own = [env for env in config.env if ":" in env]
    words = ["--env", *own] if own else []
    for option, check in NAMED.items():
        value = getattr(config, option)
        try:
            if value is not None:
                check(json.loads(value) if option == "env_kwargs" else str(value), "", "")
        except plain.NotPlain:
            words += [f"--{option.replace('_', '-')}", str(value)]
    return words


def _own_tasks(config: Any) -> str:
    """Option --env for the tasks of a training's data, if only the user's module registers one of them; else empty."""
    import gymnasium as gym  # slow to import, and known after a training

    from gato_agent.envs.tasks.task import find

    headers = [path for root in config.data for path in (root / "task.json", *sorted(root.glob("*/task.json")))]
    tasks = [unquote(path.absolute().parent.name) for path in headers if path.is_file()]
    named = {env.rpartition(":")[2]: env for env in config.eval_env if ":" in env}
    own = {task: named.get(task, f"MODULE:{task}") for task in tasks if not find(task) and task not in gym.registry}
    own |= {task: env for task, env in named.items() if task in tasks}
    return f" --env {shlex.join(own.get(task, task) for task in dict.fromkeys(tasks))}" if own else ""


def after_interrupt(verb: str, config: Any) -> str:
    """Message for an interrupted verb: what is saved, and how to go on."""
    if verb == "collect":
        return f"complete episodes are saved in {config.out}, and the same command goes on"
    if verb == "train":
        return f"its last checkpoint is in {config.out}, and the same command with --resume goes on"
    if verb == "improve":
        return f"finished rounds and episodes are saved in {config.out}, and the same command goes on"
    if verb == "evaluate":
        return (
            f"evaluated tasks are saved in {config.out}, and the same command goes on"
            if config.out
            else "nothing is saved: --out FOLDER keeps evaluated tasks, and the same command goes on"
        )
    if verb == "serve":
        return "the episodes of its clients are forgotten, and the same command serves again"
    return "the same command begins anew"
