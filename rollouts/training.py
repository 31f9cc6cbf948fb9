"""Train an expert with Stable-Baselines3, now: `--expert train`.

The settings are those of rl-baselines3-zoo for the tasks that it has tuned, and PPO with normalised observations and
rewards for any other. One thread and one seed, so training repeats exactly on one machine.
"""

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from gato_agent.envs.files import write_files
from gato_agent.envs.make import make
from gato_agent.rollouts.normalize import Normalizer, write_npz
from gato_agent.rollouts.planes import PlanesCNN
from gato_agent.rollouts.progress import Update, progress


@dataclass(frozen=True)
class Falling:
    """A rate that falls linearly from `start` to `end` over the training."""

    start: float
    end: float = 0.0

    def __call__(self, left: float) -> float:
        """The rate where the share `left` of the training is still to come."""
        return self.end + (self.start - self.end) * left


@dataclass(frozen=True)
class Settings:
    """How to train on one task.

    Attributes:
        steps: environment steps, all lanes together.
        lanes: environments side by side.
        normalize: shift and scale observations and rewards by their running statistics.
        algo: name of an algorithm of Stable-Baselines3.
        kwargs: its arguments.
    """

    steps: int
    lanes: int
    normalize: bool = False
    algo: str = "PPO"
    kwargs: dict[str, Any] = field(default_factory=dict)


LUNAR_LANDER = Settings(
    1_000_000, 16, kwargs={"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4,
                           "ent_coef": 0.01}
)  # fmt: skip
HUMANOID = Settings(  # PPO with many lanes: it takes 2,000 steps a second on one core, on which SAC takes 40
    2_000_000, 16, True, kwargs={"n_steps": 256, "batch_size": 512, "gae_lambda": 0.95, "gamma": 0.99, "n_epochs": 8,
                                 "learning_rate": Falling(3e-4, 2.25e-4), "clip_range": 0.2, "policy_kwargs": {
                                     "log_std_init": -1.0, "net_arch": [128, 128]}}
)  # fmt: skip
MINATAR = Settings(  # Atari's settings of the zoo, with a network for ten by ten cells
    1_500_000, 32, kwargs={"n_steps": 64, "batch_size": 256, "n_epochs": 4, "learning_rate": Falling(1e-3),
                           "clip_range": Falling(0.2), "ent_coef": 0.01, "policy_kwargs": {
                               "features_extractor_class": PlanesCNN, "net_arch": [64]}}
)  # fmt: skip
TUNED = {
    "CartPole-v1": Settings(
        100_000, 8, kwargs={"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
                            "learning_rate": Falling(0.001), "clip_range": Falling(0.2)}
    ),
    "Acrobot-v1": Settings(  # a fifth of the steps that the zoo takes is enough
        200_000, 16, True, kwargs={"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4}
    ),
    "MountainCar-v0": Settings(
        120_000, 1, algo="DQN", kwargs={
            "learning_rate": 4e-3, "batch_size": 128, "buffer_size": 10_000, "learning_starts": 1000, "gamma": 0.98,
            "target_update_interval": 600, "train_freq": 16, "gradient_steps": 8, "exploration_fraction": 0.2,
            "exploration_final_eps": 0.07, "policy_kwargs": {"net_arch": [256, 256]}}
    ),
    "MountainCarContinuous-v0": Settings(
        50_000, 1, algo="SAC", kwargs={
            "learning_rate": 3e-4, "buffer_size": 50_000, "batch_size": 512, "ent_coef": 0.1, "train_freq": 32,
            "gradient_steps": 32, "gamma": 0.9999, "tau": 0.01, "learning_starts": 0, "use_sde": True,
            "policy_kwargs": {"log_std_init": -3.67, "net_arch": [64, 64]}}
    ),
    "Pendulum-v1": Settings(
        100_000, 4, kwargs={"n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "learning_rate": 1e-3,
                            "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4}
    ),
    "LunarLander-v3": LUNAR_LANDER,
    "LunarLanderContinuous-v3": LUNAR_LANDER,
    "BipedalWalker-v3": Settings(
        5_000_000, 32, True, kwargs={"n_steps": 2048, "batch_size": 64, "gae_lambda": 0.95, "gamma": 0.999,
                                     "n_epochs": 10, "learning_rate": 3e-4, "clip_range": 0.18}
    ),
    "InvertedPendulum-v5": Settings(
        300_000, 1, True, kwargs={"n_steps": 32, "batch_size": 32, "gae_lambda": 0.9, "gamma": 0.999, "n_epochs": 5,
                                  "ent_coef": 1.38e-7, "learning_rate": 2.22e-4, "clip_range": 0.4,
                                  "max_grad_norm": 0.3, "vf_coef": 0.198}
    ),
    "InvertedDoublePendulum-v5": Settings(  # with the zoo's one lane and steady rate it comes and goes
        1_000_000, 8, True, kwargs={"n_steps": 128, "batch_size": 128, "gae_lambda": 0.8, "gamma": 0.98,
                                    "n_epochs": 10, "learning_rate": Falling(5e-4), "clip_range": 0.3,
                                    "max_grad_norm": 0.5, "vf_coef": 0.7}
    ),
    "Reacher-v5": Settings(  # more lanes and larger batches than the zoo's, for a third of the time
        1_000_000, 8, True, kwargs={"n_steps": 256, "batch_size": 128, "gae_lambda": 1.0, "gamma": 0.9, "n_epochs": 8,
                                    "learning_rate": Falling(3e-4), "clip_range": 0.3, "max_grad_norm": 0.9,
                                    "vf_coef": 0.95}
    ),
    "Pusher-v5": Settings(
        1_500_000, 8, True, kwargs={"n_steps": 256, "batch_size": 128, "gae_lambda": 0.95, "gamma": 0.95, "n_epochs": 8,
                                    "learning_rate": Falling(3e-4), "clip_range": 0.2,
                                    "policy_kwargs": {"log_std_init": -1.0}}
    ),
    "Humanoid-v5": HUMANOID,
    "HumanoidStandup-v5": HUMANOID,
    "MinAtar/Breakout-v1": MINATAR,
    "MinAtar/Freeway-v1": MINATAR,
    "MinAtar/SpaceInvaders-v1": MINATAR,
}  # fmt: skip
DEFAULT = Settings(500_000, 8, True, kwargs={"n_steps": 256, "batch_size": 128, "gae_lambda": 0.95, "gamma": 0.99})
ABOUT = "training.json"
OPTIONS = {"seed": "--seed", "steps": "--train-steps", "env_kwargs": "--env-kwargs"}  # what it holds
EVERY_SECONDS = 2.0  # between two reports


def train(env_id: str, env_kwargs: Mapping[str, Any], seed: int, steps: int | None, folder: Path) -> Path:
    """Train an expert, unless `folder` has one, and return the path of its SB3 zip.

    Args:
        env_id: what to train on.
        env_kwargs: arguments of the environment, JSON.
        seed: of everything random.
        steps: environment steps; None for the task's settings.
        folder: gets `model.zip`, `training.json` (seed, steps and env_kwargs) and, for normalised observations,
            `obs_norm.npz`, whole or not at all.

    Raises:
        UsageError: Stable-Baselines3 cannot train in these spaces, or `folder` has an expert trained otherwise.
        GatoError: `training.json` is damaged or missing.
        EnvironmentFault: the environment raised.
    """
    path, console = folder / "model.zip", Console()
    settings = TUNED.get(env_id, DEFAULT)
    steps = settings.steps if steps is None else steps
    asked = {"seed": seed, "steps": steps, "env_kwargs": dict(env_kwargs)}
    if path.exists():
        _check_same(folder, asked)
        console.print(f"{env_id}: using the expert trained before ({path})", highlight=False, soft_wrap=True)
        return path
    venv = DummyVecEnv([lambda: Monitor(make(env_id, env_kwargs=env_kwargs)) for _ in range(settings.lanes)])
    try:
        norm_obs = settings.normalize and _floats(venv.observation_space)
        envs = VecNormalize(venv, norm_obs=norm_obs) if settings.normalize else venv
        model = _algorithm(env_id, settings, envs, seed)
        with progress(console, f"{env_id}: training an expert with {settings.algo}", steps, "steps") as update:
            model.learn(steps, callback=_Report(update))
    finally:
        venv.close()
    # The zip last: once it is there, all are.
    statistics = {folder / "obs_norm.npz": _statistics(envs)} if isinstance(envs, VecNormalize) and norm_obs else {}
    write_files({folder / ABOUT: json.dumps(asked, sort_keys=True).encode(), **statistics, path: _zip(model)})
    return path


def _check_same(folder: Path, asked: dict[str, Any]) -> None:
    """Refuse an expert that was trained with other settings than those asked for."""
    way_out = f"repeat what it was trained with, choose another --out, or delete {folder}"
    try:
        found = json.loads((folder / ABOUT).read_bytes())
        differing = [
            f"{OPTIONS[key]} {json.dumps(found[key])}, now {json.dumps(asked[key])}"
            for key in OPTIONS
            if found[key] != asked[key]
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise GatoError(f"{folder / ABOUT} does not say how its expert was trained ({error}): {way_out}") from error
    if differing:
        raise UsageError(f"the expert in {folder} was trained with {' and '.join(differing)}: {way_out}")


def _algorithm(env_id: str, settings: Settings, envs: Any, seed: int) -> BaseAlgorithm:
    """Make the algorithm with the policy that fits the observations."""
    space = envs.observation_space
    policy = "MultiInputPolicy" if isinstance(space, gym.spaces.Dict) else "MlpPolicy"
    if is_image_space(space):
        policy = "CnnPolicy"
    try:
        model: BaseAlgorithm = getattr(stable_baselines3, settings.algo)(
            policy, envs, seed=seed, device="cpu", **settings.kwargs
        )
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise UsageError(
            f"{env_id}: Stable-Baselines3 cannot train in its spaces ({one_line(error)}); give an expert with "
            "--expert PATH or --expert module:callable"
        ) from error
    return model


def _floats(space: gym.Space[Any]) -> bool:
    """Whether observations are arrays of numbers, and no images."""
    if isinstance(space, gym.spaces.Dict):
        return all(_floats(entry) for entry in space.values())
    return isinstance(space, gym.spaces.Box) and space.dtype != np.bool_ and not is_image_space(space)


def _statistics(envs: VecNormalize) -> bytes:
    """The contents of `obs_norm.npz`."""
    stats: Any = envs.obs_rms
    keyed = stats if isinstance(stats, dict) else {"": stats}
    mean, var = ({key: np.asarray(getattr(rms, name)) for key, rms in keyed.items()} for name in ("mean", "var"))
    return write_npz(Normalizer(mean, var, float(envs.clip_obs), float(envs.epsilon)))


def _zip(model: BaseAlgorithm) -> bytes:
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()


class _Report(BaseCallback):
    """Tells how far training is, every few seconds."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self._update = update
        self._began = self._last = time.monotonic()

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self._last >= EVERY_SECONDS:
            self._report(now)
        return True

    def _on_training_end(self) -> None:
        self._report(time.monotonic())

    def _report(self, now: float) -> None:
        self._last = now
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        mean = f"{np.mean(returns):.2f}" if returns else "not known yet"
        done = min(self.num_timesteps, self.locals["total_timesteps"])
        self._update(done, f"{self.num_timesteps / (now - self._began):,.0f} steps/s, mean return {mean}")
