"""Environments for tests: one with injected reset and step, and one in which any space can be learned.

make("tests.helpers.testing_env:Testing-v0", env_kwargs={"step": lambda self, action: ...})
make("tests.helpers.testing_env:Identity-v0", env_kwargs={"space": Discrete(4)})
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from gato_agent.envs.spaces.flatten import leaves, stack


class TestingEnv(gym.Env[Any, Any]):
    """Environment with injected functions; by default it observes [seed, t] and ends after `length` steps."""

    __test__ = False  # not a test itself, whatever its name
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(
        self,
        reset: Callable[..., Any] | None = None,
        step: Callable[..., Any] | None = None,
        render: Callable[..., Any] | None = None,
        observation_space: Space[Any] | None = None,
        action_space: Space[Any] | None = None,
        length: int = 3,
        render_mode: str | None = None,
    ) -> None:
        self.functions = {"reset": reset, "step": step, "render": render}
        self.observation_space = observation_space or Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = action_space or Discrete(2)
        self.length = length
        self.render_mode = render_mode
        self.seed = self.t = 0

    def observe(self) -> Any:
        return np.array([self.seed, self.t], np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.seed, self.t = seed or 0, 0
        function = self.functions["reset"]
        return function(self, seed, options) if function else (self.observe(), {})

    def step(self, action: Any) -> Any:
        self.t += 1
        function = self.functions["step"]
        return function(self, action) if function else (self.observe(), 1.0, self.t >= self.length, False, {})

    def render(self) -> Any:
        function = self.functions["render"]
        return function(self) if function else np.full((16, 16, 3), self.t, np.uint8)


class BurningEnv(TestingEnv):
    """Environment that raises or observes a NaN in step `fault_step` of episodes with seed `fault_seed` or all."""

    def __init__(
        self, fault: str = "raise", fault_step: int = 3, fault_seed: int | None = None, render_mode: str | None = None
    ) -> None:
        super().__init__(length=10, render_mode=render_mode)
        self.fault, self.fault_step, self.fault_seed = fault, fault_step, fault_seed

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        due = self.t == self.fault_step + 1 and self.fault_seed in (None, self.seed)
        if due and self.fault == "raise":
            raise ValueError("the motor is on fire")
        return (np.array([np.nan, 0.0]) if due and self.fault == "nan" else obs, *rest)


class IdentityEnv(gym.Env[Any, Any]):
    """Environment that observes a sample of `space`; the reward is the `likeness` of action and observation."""

    def __init__(self, space: Space[Any], length: int = 10) -> None:
        self.observation_space = self.action_space = deepcopy(space)  # its samples are this environment's own
        self.length = length

    def observe(self) -> Any:
        self.right = self.observation_space.sample()
        return self.right

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        reward = likeness(self.action_space, action, self.right)
        return self.observe(), reward, False, self.t >= self.length, {}


def likeness(space: Space[Any], action: Any, right: Any) -> float:
    """Similarity of two values of `space`, from 0 to 1: mean of equality, or of 1 - distance for floats."""
    actual, wanted = stack(space, [action]), stack(space, [right])
    distances = [
        np.minimum(abs(actual[path] - wanted[path]), 1.0)
        if wanted[path].dtype.kind == "f"
        else actual[path] != wanted[path]
        for path, _ in leaves(space)
    ]
    return 1.0 - float(np.mean([np.mean(distance) for distance in distances if distance.size]))


gym.register("Testing-v0", entry_point="tests.helpers.testing_env:TestingEnv")
gym.register("Identity-v0", entry_point="tests.helpers.testing_env:IdentityEnv")
gym.register("Burning-v0", "tests.helpers.testing_env:BurningEnv", order_enforce=False)
