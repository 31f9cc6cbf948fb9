"""Preparation of a collection: one environment and its expert are made, checked and described as a job."""

import sys
from contextlib import closing
from importlib.metadata import version
from typing import Any

import gymnasium as gym

from gato_agent.envs.errors import CannotRender
from gato_agent.envs.files import below
from gato_agent.envs.make import find_spec, make_vector
from gato_agent.envs.spaces.flatten import space_to_json
from gato_agent.envs.tasks.packages import suite_of
from gato_agent.envs.vector import SeparateInfos
from gato_agent.rollouts.collection.by_hand import window_options
from gato_agent.rollouts.collection.collect_config import CollectConfig
from gato_agent.rollouts.collection.dagger import Learner, SampledAgent, provenance
from gato_agent.rollouts.collection.episode_worker import CollectJob
from gato_agent.rollouts.experts.callables import CallableExpert, check_answer
from gato_agent.rollouts.experts.expert import NO_NETWORK, Expert, WindowOptions
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.obs_wrappers import parse_wrappers
from gato_agent.rollouts.storage.validate import check_learnable


def _set_threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)


def prepare(
    config: CollectConfig, env: str, kwargs: dict[str, Any], learner: Learner | None, agent: SampledAgent | None = None
) -> CollectJob:
    """Make environment and expert once, to raise their errors early, and describe them as a job."""
    if config.expert == "train":  # other experts get their threads in the worker; scripted ones need no torch
        _set_threads(config.num_threads)
    env_id, wrappers = find_spec(env).id, parse_wrappers(config.expert_wrappers)
    window = window_options(config)
    with closing(_made(env, kwargs, window)) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        check_learnable(env_id, *spaces)
        folder = below(config.out, "experts")
        expert = agent.make_expert(envs) if agent is not None else load_expert(
            config.expert, env_id, *spaces, config.seed,
            envs=envs, env_kwargs=kwargs, folder=folder, train_steps=config.train_steps,
            statistics=config.expert_statistics, wrappers=wrappers, window=window,
        )  # fmt: skip
        if isinstance(expert, CallableExpert):
            if "torch" in sys.modules:  # otherwise the expert does not use it
                _set_threads(config.num_threads)
            check_answer(expert, envs, config.seed)
        if learner is not None:
            learner.check(envs)
    header = _header(env_id, kwargs, spaces, expert, config.noise)
    if learner is not None:
        header["learner"] = provenance(learner, config.dagger_beta)
        header["versions"]["torch"] = version("torch")
    return CollectJob(
        env, config.expert, config.seed, folder, config.train_steps, config.num_threads, header, learner,
        config.expert_statistics, wrappers, window, agent,
    )  # fmt: skip


def _made(env: str, kwargs: dict[str, Any], window: WindowOptions | None) -> SeparateInfos:
    """Make the environment, with images for a person's window; raises UsageError if it has none."""
    if window is None:
        return make_vector(env, 1, env_kwargs=kwargs)
    try:
        return make_vector(env, 1, env_kwargs=kwargs, render_mode="rgb_array")
    except CannotRender as error:
        what = str(error).rpartition("; ")[0]
        raise CannotRender(f"{what}; --expert human shows rgb_array: add that mode to it, or give an expert") from error


def _header(
    env_id: str, kwargs: dict[str, Any], spaces: tuple[gym.Space[Any], gym.Space[Any]], expert: Expert, noise: bool
) -> dict[str, Any]:
    """Header of all episodes of a task, the contents of task.json."""
    suite = suite_of(env_id)
    packages = ["gymnasium", "numpy", *(suite.distributions if suite else ())]
    if expert.provenance["kind"] not in NO_NETWORK:
        packages += ["torch", "stable-baselines3"]
    return {
        "env_id": env_id,
        "env_kwargs": kwargs,
        "observation_space": space_to_json(spaces[0]),
        "action_space": space_to_json(spaces[1]),
        "expert": expert.provenance,
        "noise": noise,
        "versions": {name: version(name) for name in packages},
    }
