"""An agent and the environments that it is to play."""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Unpack

import gymnasium as gym

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.envs.errors import UsageError
from gato_agent.envs.io import plain
from gato_agent.envs.make import make_vector, named
from gato_agent.envs.suggested_commands import suggest
from gato_agent.inference.agent import Agent
from gato_agent.inference.options import DecodingOptions
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import open_stores
from gato_agent.rollouts.storage.filter import training_indices
from gato_agent.tokens.prompt import Kind


@contextmanager
def make_agent_and_envs(
    checkpoint: Checkpoint, env_id: str, num_envs: int, *, env_kwargs: Mapping[str, Any] | None = None,
    render_mode: str | None = None, demo: Path | None = None, option: str = "--env-kwargs",
    **options: Unpack[DecodingOptions],
) -> Iterator[tuple[Agent, gym.vector.VectorEnv[Any, Any, Any]]]:  # fmt: skip
    """An agent and the environments that it is to play, which are closed afterwards.

    Args:
        checkpoint: must know the environment.
        env_id: plain id of the environment.
        num_envs: number of environments.
        env_kwargs: their arguments; by default those that the agent was trained with, if they are plain.
        render_mode: of the first of them.
        demo: folder of collected episodes, one of which becomes the agent's demonstration.
        option: of the command line that sets `env_kwargs`, for the message.
        options: see `Agent`.

    Raises:
        UsageError: unknown environment, or one that the checkpoint does not know; arguments in the checkpoint that are
            not plain; or no demonstration of it.
    """
    if not env_kwargs and env_id in checkpoint.tasks:
        trained = checkpoint.tasks[env_id].env_kwargs
        way_out = f"if you trust it, give {option} {shlex.quote(json.dumps(trained))}"
        env_kwargs = plain.env_kwargs(trained, f"{env_id} in {checkpoint.name}", way_out)
    with closing(make_vector(env_id, num_envs, env_kwargs=env_kwargs, render_mode=render_mode)) as envs:
        task = find_task(checkpoint, envs)
        options["demonstration"] = demonstration(demo, task.id, options.get("prompt"))
        yield Agent(checkpoint, task, masks=envs.action_masks, **options), envs


def demonstration(folder: Path | None, env_id: str, prompt: Kind | None) -> Episode | None:
    """Demonstration of an environment: its first episode below a folder, successful if any episode is.

    Args:
        folder: of collected episodes; None for no demonstration.
        env_id: plain id of the environment.
        prompt: kind of prompt; `none` needs no demonstration.

    Raises:
        UsageError: there is none.
    """
    if folder is None or prompt == "none":
        return None
    for store in open_stores(folder):
        if store.env_id == env_id:
            episodes = [store.fitting(index) for index in training_indices(store)]
            for episode in sorted(episodes, key=lambda episode: not episode.success):
                return episode
    command = suggest("collect a demonstration", env=named(env_id), out=folder)
    raise UsageError(f"--demo {folder} has no episode of {env_id}: make one with `{command}`")
