"""Match of an environment with one of a checkpoint's tasks."""

import logging
from typing import Any

import gymnasium as gym

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import UsageError
from gato_agent.envs.make import named
from gato_agent.envs.spaces.same_space import same_meaning
from gato_agent.envs.suggested_commands import suggest
from gato_agent.envs.tasks.task import find

FEW = 5  # tasks that a message lists
_log = logging.getLogger(__name__)


def find_task(checkpoint: Checkpoint, env: Any) -> TrainedTask:
    """The checkpoint's task of an environment, or of an id: by id, else by equal meaning of spaces.

    A match by spaces is logged as a warning.

    Raises:
        UsageError: no task has its id or its spaces, or that of its id has other spaces.
    """
    task, name = matching_task(checkpoint, env), env if isinstance(env, str) else _id(env)
    if name not in (None, task.id):  # an environment without an id cannot be known by it
        shipped = checkpoint.name == "shipped weights"
        who, acts = ("the shipped weights were", "they act") if shipped else (f"{checkpoint.name} was", "it acts")
        text = "%s not trained on %s: %s as in %s, whose spaces are the same"
        _log.warning(text, who if checkpoint.name else "the checkpoint was", name, acts, task.id)
    return task


def matching_task(checkpoint: Checkpoint, env: Any) -> TrainedTask:
    """As `find_task`, without a warning."""
    if isinstance(env, str):
        if env in checkpoint.tasks:
            return checkpoint.tasks[env]
        raise UsageError(unknown_task(checkpoint, env))
    spaces = (
        getattr(env, "single_observation_space", env.observation_space),
        getattr(env, "single_action_space", env.action_space),
    )
    name = _id(env) or type(env).__name__
    task = checkpoint.tasks.get(name)
    if task is not None:
        if other := differences(spaces, task):
            raise UsageError(
                f"{name} has other spaces here than in the training of {checkpoint.name}: {other}; give it the "
                "arguments of its training, or collect and train again"
            )
        return task
    same = [task for task in checkpoint.tasks.values() if not differences(spaces, task)]
    if len(same) != 1:
        raise UsageError(unknown_task(checkpoint, name))
    return same[0]


def _id(env: Any) -> str | None:
    """Registered id of an environment or of a vector of them; None without one."""
    spec = getattr(getattr(env, "envs", [env])[0], "spec", None)  # vector environments often have none of their own
    return None if spec is None else str(spec.id)


def differences(spaces: tuple[gym.Space[Any], gym.Space[Any]], task: TrainedTask) -> str:
    """Spaces that differ in meaning from those of a task, in words; empty if none does."""
    kinds = ("observations", "actions")
    pairs = zip(kinds, spaces, (task.observation_space, task.action_space), strict=True)
    return ", ".join(
        f"{kind} {space} instead of {trained}"
        if str(space) != str(trained)
        else f"{kind} {space} with other bounds or characters"
        for kind, space, trained in pairs
        if not same_meaning(space, trained, acted=kind == "actions")
    )


def unknown_task(checkpoint: Checkpoint, env_id: str) -> str:
    """Message for an environment that a checkpoint does not know: commands that train on it and list its tasks."""
    known = find(env_id)
    collecting = "collect" if known is not None and known.expert_kind else "collect by training"
    shipped = checkpoint.name in ("", "shipped weights")
    init = "shipped" if shipped else checkpoint.name
    out = f"runs/{env_id.replace('/', '-')}"
    train = suggest("fine-tune", init=init, out=out if out != init else f"{out}-2")
    listed = suggest("tasks") if shipped else suggest("tasks of a checkpoint", checkpoint=init)
    few = f"{', '.join(checkpoint.tasks)} ({listed})" if len(checkpoint.tasks) <= FEW else listed
    who = f"the {checkpoint.name or 'weights'} do" if shipped else f"{checkpoint.name} does"
    return (
        f"{who} not know {env_id}. Train on it: {suggest(collecting, env=named(env_id))}; {train}. Known tasks: {few}"
    )
