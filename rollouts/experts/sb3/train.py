"""Training of experts with Stable-Baselines3, `--expert train`.

`hyperparams.py` has the settings. Training uses one seed, so it is reproducible on one machine.
"""

import io
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import stable_baselines3
from rich.console import Console
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import read_named, write_files
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.progress import clock, progress
from gato_agent.envs.io.stop_signal import StopSignal
from gato_agent.envs.io.strict_json import checked_digest, with_digest
from gato_agent.envs.make import make
from gato_agent.rollouts.experts.sb3.hyperparams import DEFAULT, TUNED, Settings
from gato_agent.rollouts.experts.sb3.preprocess import AsSB3Expects
from gato_agent.rollouts.experts.sb3.train_progress import (
    ReportAndSave,
    measured_speed,
    short_rollouts,
    whole_rollouts,
)
from gato_agent.rollouts.experts.sb3.train_state import load_state, remove_state, save_state
from gato_agent.rollouts.experts.sb3.vecnormalize import Normalizer, write_npz

ABOUT = "training.json"
OPTIONS = {"seed": "--seed", "steps": "--train-steps", "env_kwargs": "--env-kwargs"}  # keys of the file
KNOWN = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)  # what SB3 can observe
NATURE_CNN = 36  # pixels that SB3's convolutions need at least; smaller images are flattened
Result = TypeVar("Result")


def train(env_id: str, env_kwargs: Mapping[str, Any], seed: int, steps: int | None, folder: Path) -> Path:
    """Train an expert, unless `folder` has one, and return the path of its SB3 zip.

    Args:
        env_id: id of the environment.
        env_kwargs: arguments of the environment, JSON.
        seed: seed of all random numbers.
        steps: environment steps; None for the task's settings.
        folder: folder for `model.zip`, `training.json` (seed, steps and env_kwargs) and, for normalised observations,
            `obs_norm.npz`.

    Raises:
        UsageError: Stable-Baselines3 cannot train in these spaces, or `folder` has an expert of other settings.
        GatoError: `training.json` is damaged or missing.
        EnvironmentFault: the environment raised.
        KeyboardInterrupt: after an interrupt, with a checkpoint in `folder` from which an equal call goes on.
    """
    path, console = folder / "model.zip", plain_console()
    settings = TUNED.get(env_id, DEFAULT)
    steps = settings.steps if steps is None else steps
    wanted = {"seed": seed, "steps": steps, "env_kwargs": dict(env_kwargs)}
    if path.exists():
        _check_same(folder, wanted)
        console.print(f"{env_id}: using the expert trained before ({path})", highlight=False, soft_wrap=True)
        return path
    with ExitStack() as stack:
        speed = _measured(env_id, env_kwargs, settings, seed)
        model, envs = _prepared(env_id, env_kwargs, settings, seed, stack)
        resumed, total = load_state(folder, model, wanted), whole_rollouts(model, steps)
        _announce(console, env_id, settings, steps, total, model.num_timesteps if resumed else None, speed)
        title = f"{env_id}: training an expert with {settings.algo}"
        with (
            StopSignal() as stop,
            progress(console, title, total, "steps", model.num_timesteps) as update,
        ):
            callback = ReportAndSave(update, lambda: save_state(folder, model, wanted), stop)
            _learn(env_id, model, steps, callback)
        if stop.received and model.num_timesteps < total:
            save_state(folder, model, wanted)
            console.print(f"saved after {model.num_timesteps:,} steps in {folder}", highlight=False, soft_wrap=True)
            raise KeyboardInterrupt
    # The zip is written last: if it exists, all files do.
    normalizer = Normalizer.of(envs) if isinstance(envs, VecNormalize) else None
    if normalizer is None:
        model._last_original_obs = None  # a reader of the zip without training.json must not expect statistics
    statistics = {folder / "obs_norm.npz": write_npz(normalizer)} if normalizer else {}
    write_files({folder / ABOUT: with_digest(wanted, sort_keys=True), **statistics, path: _zip(model)})
    remove_state(folder)
    return path


def _measured(env_id: str, env_kwargs: Mapping[str, Any], settings: Settings, seed: int) -> float:
    """Training speed in steps a second, measured with a separate model and separate environments."""
    with ExitStack() as stack:
        model, _ = _prepared(env_id, env_kwargs, short_rollouts(settings), seed, stack)
        return _raised_by_training(env_id, partial(measured_speed, model))


def _announce(
    console: Console, env_id: str, settings: Settings, steps: int, total: int, done: int | None, speed: float
) -> None:
    """Print the number of steps and the time that they will take."""
    rounded = f", {steps:,} rounded up to whole rollouts" if total != steps else ""
    resumed = "" if done is None else f", of which {done:,} are done"
    left = clock((total - (done or 0)) / max(speed, 1e-6))
    line = f"{env_id}: {total:,} steps of {settings.algo}{rounded}{resumed}: about {left} at {speed:,.0f} steps/s"
    console.print(line, highlight=False, soft_wrap=True)


def _check_same(folder: Path, wanted: dict[str, Any]) -> None:
    """Raise UsageError for an expert that was trained with other settings."""
    way_out = f"repeat what it was trained with, choose another --out, or delete {folder}"
    try:
        existing = checked_digest(read_named(folder / ABOUT))
        differing = [
            f"{OPTIONS[key]} {json.dumps(existing[key])}, now {json.dumps(wanted[key])}"
            for key in OPTIONS
            if existing[key] != wanted[key]
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise GatoError(f"{folder / ABOUT} does not say how its expert was trained ({error}): {way_out}") from error
    if differing:
        raise UsageError(f"the expert in {folder} was trained with {' and '.join(differing)}: {way_out}")


def _prepared(
    env_id: str, env_kwargs: Mapping[str, Any], settings: Settings, seed: int, stack: ExitStack
) -> tuple[BaseAlgorithm, Any]:
    """Make the algorithm and its environments, which `stack` closes.

    Raises:
        UsageError: SB3 cannot train in these spaces.
        EnvironmentFault: the environment raised.
    """
    envs: list[gym.Env[Any, Any]] = []
    for _ in range(settings.num_envs):
        env = AsSB3Expects(make(env_id, env_kwargs=env_kwargs))
        stack.callback(env.close)
        envs.append(env)
    observed = envs[0].observation_space
    unknown = [path for path, leaf in _leaves(observed) if not isinstance(leaf, KNOWN)]
    try:
        if unknown:
            raise ValueError(f"it cannot observe {', '.join(unknown)}")
        if small := [path for path, leaf in _leaves(observed) if observed is not leaf and _is_small_image(leaf)]:
            least = f"{NATURE_CNN} x {NATURE_CNN} pixels"
            raise ValueError(f"images beside other observations need {least}, unlike {', '.join(small)}")
        venv: Any = DummyVecEnv([lambda env=env: Monitor(env) for env in envs])  # type: ignore[misc]
        if settings.normalize:
            venv = VecNormalize(venv, norm_obs=_floats(observed))
        return _algorithm(settings, venv, seed), venv
    except GatoError:
        raise
    except Exception as error:
        raise UsageError(
            f"{env_id}: Stable-Baselines3 cannot train in its spaces ({one_line(error)}); give an expert with "
            "--expert PATH or --expert module:callable"
        ) from error


def _leaves(space: gym.Space[Any]) -> list[tuple[str, gym.Space[Any]]]:
    """Parts of an observation space in SB3, with their names: entries of a Dict, or the whole space."""
    if isinstance(space, gym.spaces.Dict):
        return [(f"{key!r}, {entry}", entry) for key, entry in space.items()]
    return [(str(space), space)]


def _is_small_image(space: gym.Space[Any]) -> bool:
    """True if a space has images with too few pixels for SB3's convolutions."""
    return is_image_space(space) and min(sorted(space.shape or ())[1:]) < NATURE_CNN


def _algorithm(settings: Settings, envs: Any, seed: int) -> BaseAlgorithm:
    """Make the algorithm with the policy that fits the observations; raises SB3's exceptions."""
    space = envs.observation_space
    policy = "MultiInputPolicy" if isinstance(space, gym.spaces.Dict) else "MlpPolicy"
    if is_image_space(space) and not _is_small_image(space):
        policy = "CnnPolicy"
    model: BaseAlgorithm = getattr(stable_baselines3, settings.algo)(
        policy, envs, seed=seed, device="cpu", **settings.kwargs
    )
    return model


def _learn(env_id: str, model: BaseAlgorithm, steps: int, callback: BaseCallback) -> None:
    """Train until the model has taken so many steps; raises GatoError naming the environment."""
    left, fresh = steps - model.num_timesteps, model.num_timesteps == 0
    _raised_by_training(env_id, lambda: model.learn(left, callback=callback, reset_num_timesteps=fresh))


def _raised_by_training(env_id: str, run: Callable[[], Result]) -> Result:
    """Result of a function that trains; raises GatoError naming the environment."""
    try:
        return run()
    except GatoError:
        raise
    except Exception as error:
        raise GatoError(
            f"{env_id}: training an expert raised {one_line(error)}; give one with --expert PATH or --expert "
            "module:callable"
        ) from error


def _floats(space: gym.Space[Any]) -> bool:
    """True if observations are arrays of numbers and no images."""
    if isinstance(space, gym.spaces.Dict):
        return all(_floats(entry) for entry in space.values())
    return isinstance(space, gym.spaces.Box) and space.dtype != np.bool_ and not is_image_space(space)


def _zip(model: BaseAlgorithm) -> bytes:
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()
