"""Match of an environment with one of a checkpoint's tasks."""

from typing import Any

from gymnasium.spaces import Space

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import UsageError
from gato_agent.envs.spaces.same_space import same_meaning


def find_task(checkpoint: Checkpoint, env: Any) -> TrainedTask:
    """The checkpoint's task of an environment, or of an id: by id, else by spaces of the same meaning.

    Raises:
        UsageError: no task has its id or its spaces, or that of its id has other spaces; the message lists the tasks.
    """
    if isinstance(env, str):
        if env in checkpoint.tasks:
            return checkpoint.tasks[env]
        raise _unknown(checkpoint, env)
    spaces = (
        getattr(env, "single_observation_space", env.observation_space),
        getattr(env, "single_action_space", env.action_space),
    )
    spec = getattr(getattr(env, "envs", [env])[0], "spec", None)  # vector environments often have none of their own
    name = type(env).__name__ if spec is None else spec.id
    same = [task for task in checkpoint.tasks.values() if not differences(task, *spaces)]
    task = checkpoint.tasks.get(name)
    if task is not None and task not in same:
        raise UsageError(
            f"{name} has other spaces than {checkpoint.name} was trained on: {differences(task, *spaces)}; collect and "
            "train again"
        )
    if task is None and len(same) != 1:
        raise _unknown(checkpoint, name)
    return task or same[0]


def differences(task: TrainedTask, observation_space: Space[Any], action_space: Space[Any]) -> str:
    """The spaces that differ in meaning from a task's, beside the task's, in words."""
    pairs = (("observations", observation_space, task.observation_space), ("actions", action_space, task.action_space))
    return ", ".join(
        f"{name} {own} and not {trained}"
        for name, own, trained in pairs
        if not same_meaning(own, trained, acted=name == "actions")
    )


def _unknown(checkpoint: Checkpoint, name: str) -> UsageError:
    return UsageError(
        f"{checkpoint.name} was not trained on {name} (it plays {', '.join(checkpoint.tasks)}): "
        f"use `gato-agent collect --env {name}` and `gato-agent train`"
    )
