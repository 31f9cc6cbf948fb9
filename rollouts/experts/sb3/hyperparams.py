"""Training settings per task, from rl-baselines3-zoo, and a default for other tasks.

Settings that differ from the zoo's let one core train an expert in minutes.
"""

from dataclasses import dataclass, field
from typing import Any

from gato_agent.rollouts.experts.minatar_cnn import PlanesCNN


@dataclass(frozen=True)
class Falling:
    """Linear schedule from `start` to `end` over the training."""

    start: float
    end: float = 0.0

    def __call__(self, left: float) -> float:
        """Value of the schedule; `left` is the remaining share of the training, from 1 to 0."""
        return self.end + (self.start - self.end) * left


@dataclass(frozen=True)
class Settings:
    """Training settings of one task.

    Attributes:
        steps: environment steps, summed over environments.
        num_envs: number of parallel environments.
        normalize: true to normalise observations and rewards by running statistics (VecNormalize).
        algo: name of an algorithm of Stable-Baselines3.
        kwargs: arguments of the algorithm.
    """

    steps: int
    num_envs: int
    normalize: bool = False
    algo: str = "PPO"
    kwargs: dict[str, Any] = field(default_factory=dict)


LUNAR_LANDER = Settings(
    1_000_000, 16, kwargs={"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4,
                           "ent_coef": 0.01}
)  # fmt: skip
HUMANOID = Settings(  # many environments: on one core PPO takes some 2,000 steps a second, and SAC 40
    2_000_000, 16, True, kwargs={"n_steps": 256, "batch_size": 512, "gae_lambda": 0.95, "gamma": 0.99, "n_epochs": 8,
                                 "learning_rate": Falling(3e-4, 2.25e-4), "clip_range": 0.2, "policy_kwargs": {
                                     "log_std_init": -1.0, "net_arch": [128, 128]}}
)  # fmt: skip
MINATAR = Settings(  # much as the zoo trains on Atari, with a network for ten by ten cells
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
    "InvertedDoublePendulum-v5": Settings(  # with the zoo's one environment and steady rate it comes and goes
        1_000_000, 8, True, kwargs={"n_steps": 128, "batch_size": 128, "gae_lambda": 0.8, "gamma": 0.98,
                                    "n_epochs": 10, "learning_rate": Falling(5e-4), "clip_range": 0.3,
                                    "max_grad_norm": 0.5, "vf_coef": 0.7}
    ),
    "Reacher-v5": Settings(  # more environments and larger batches than the zoo's, for a third of the time
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
