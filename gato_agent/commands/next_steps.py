"""Messages after a verb: the command that usually follows, and the way on after an interrupt."""

import json
import shlex
from collections.abc import Callable
from typing import Any

from gato_agent.envs.errors import UsageError
from gato_agent.envs.io import plain
from gato_agent.envs.suggested_commands import suggest

NAMED: dict[str, Callable[[Any, str, str], object]] = {  # options of an evaluation, and the check of each in a file
    "checkpoint": plain.checkpoint,
    "expert": plain.expert,
    "demo": plain.path,
    "expert_statistics": plain.path,
    "env_kwargs": plain.env_kwargs,
}


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
    from gato_agent.rollouts.storage.task_folder import env_id_of, task_folders

    try:
        tasks = [env_id_of(folder) for root in config.data for folder in task_folders(root)]
    except UsageError:  # moved or removed since the training read them
        return ""
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
