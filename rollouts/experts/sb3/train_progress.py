"""Progress of training an expert with Stable-Baselines3: whole rollouts, measured speed, and interrupts."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from gato_agent.envs.io.progress import Update
from gato_agent.envs.io.stop_signal import StopSignal
from gato_agent.rollouts.experts.sb3.hyperparams import Settings

EVERY_SECONDS = 2.0  # between two reports
SAVE_SECONDS = 60.0  # between two checkpoints
MEASURED_SECONDS = 1.5  # for which the speed is measured, after a rollout that warms up
LONGEST = 10.0  # seconds of a measurement, even if no rollout is complete


def whole_rollouts(model: BaseAlgorithm, steps: int) -> int:
    """Environment steps that SB3 takes for `steps`: on-policy algorithms take whole rollouts."""
    rollout = model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else 1
    return math.ceil(steps / rollout) * rollout


def short_rollouts(settings: Settings) -> Settings:
    """Settings of the same work a step in short rollouts, to measure the speed."""
    kwargs = dict(settings.kwargs)
    if "train_freq" in kwargs or settings.algo != "PPO":
        kwargs["learning_starts"] = kwargs.get("train_freq", 1)
        return replace(settings, kwargs=kwargs)
    batch = kwargs.get("batch_size", 64)
    kwargs["n_steps"] = min(kwargs.get("n_steps", 2048), max(2, math.ceil(batch / settings.num_envs)))
    return replace(settings, kwargs=kwargs)


def measured_speed(model: BaseAlgorithm) -> float:
    """Environment steps a second of training, updates included; the model is to be thrown away."""
    speed = _Speed()
    model.learn(10**9, callback=speed)
    return speed.steps_per_second()


class _Speed(BaseCallback):
    """Callback that stops after some rollouts and keeps the time at which each began."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._marks: list[tuple[float, int]] = []  # time and steps at the beginning of a rollout
        self._now = (0.0, 0)

    def _on_rollout_start(self) -> None:
        self._marks.append((time.monotonic(), self.num_timesteps))

    def _on_step(self) -> bool:
        self._now = (time.monotonic(), self.num_timesteps)
        warm = self._marks[min(1, len(self._marks) - 1)][0]
        complete = len(self._marks) > 2 and self._now[0] - warm >= MEASURED_SECONDS
        return not complete and self._now[0] - self._began < LONGEST

    def steps_per_second(self) -> float:
        first, last = (self._marks[1], self._marks[-1]) if len(self._marks) > 2 else (self._marks[0], self._now)
        return (last[1] - first[1]) / max(last[0] - first[0], 1e-6)


class ReportAndSave(BaseCallback):
    """Callback that reports progress every few seconds, saves every minute, and stops after an interrupt.

    Args:
        update: shows the steps done and a text.
        save: saves the training.
        stop: signal that ends the training after the current step.
    """

    def __init__(self, update: Update, save: Callable[[], None], stop: StopSignal) -> None:
        super().__init__()
        self._update, self._save, self._stop = update, save, stop
        self._began = self._last = self._saved = time.monotonic()
        self._before = 0

    def _on_training_start(self) -> None:
        self._before = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._save()
            self._saved = time.monotonic()

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self._last >= EVERY_SECONDS:
            self._report(now)
        return not self._stop.received

    def _on_training_end(self) -> None:
        self._report(time.monotonic())

    def _report(self, now: float) -> None:
        self._last = now
        returns: list[Any] = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        mean = f"{np.mean(returns):.2f}" if returns else "not known yet"
        done = self.model.num_timesteps
        speed = (done - self._before) / max(now - self._began, 1e-6)
        self._update(done, f"{speed:,.0f} steps/s, mean return {mean}")
