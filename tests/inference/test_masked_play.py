"""Action masks of environments, in infos and as a method, are obeyed by whoever plays them."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError
from gato_agent.envs.loop import steps
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato


class Allowed(gym.Env[Any, Any]):
    """Allows one action a step, or says that it allows none; ends an episode after eight steps."""

    def __init__(self, by: str = "info", none_at: int = -1) -> None:
        self.observation_space, self.action_space = Box(-1, 1, (2,), np.float32), Discrete(4)
        self.by, self.none_at, self.allowed = by, none_at, 0
        if by == "method":
            self.action_masks = self._mask
        elif by == "broken":
            self.action_masks = lambda: 1 / 0

    def _mask(self) -> Any:
        return (np.arange(4) == self.allowed) & (self.t != self.none_at)

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        self.allowed = int(self.np_random.integers(4))
        info: dict[str, Any] = {"allowed": self.allowed}
        if self.by == "info":
            info["action_mask"] = self._mask().astype(np.int8)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._seen()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        legal, self.t = float(action == self.allowed), self.t + 1
        seen, info = self._seen()
        return seen, legal, self.t >= 8, False, info


gym.register("Allowed-v0", Allowed)


def checkpoint() -> Checkpoint:
    task = TrainedTask("Allowed-v0", Box(-1, 1, (2,), np.float32), Discrete(4))
    config = GatoConfig(1, 2, 64, 128, 40, 64, (32, 64), 32, action_decoder=True)
    return Checkpoint(Gato(config).eval(), {task.id: task}, name="test weights")


@pytest.mark.parametrize("by", ["info", "method"])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_action_is_illegal(by: str, num_envs: int, temperature: float) -> None:
    with make_agent_and_envs(checkpoint(), "Allowed-v0", num_envs, env_kwargs={"by": by}, temperature=temperature) as (
        agent,
        envs,
    ):
        assert [step.reward for step in steps(agent, envs, range(5))] == [1.0] * 40


def test_without_masks_all_actions_are_possible() -> None:
    with make_agent_and_envs(checkpoint(), "Allowed-v0", 1, env_kwargs={"by": "none"}, temperature=1.0) as (
        agent,
        envs,
    ):
        rewards = [step.reward for step in steps(agent, envs, range(20))]
    assert 0 < sum(rewards) < len(rewards)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_mask_that_allows_nothing_is_named(num_envs: int) -> None:
    with (
        make_agent_and_envs(checkpoint(), "Allowed-v0", num_envs, env_kwargs={"none_at": 3}) as (agent, envs),
        pytest.raises(GatoError, match=r"^Allowed-v0: .*step 3.* allows no value"),
    ):
        list(steps(agent, envs, range(5)))


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_method_that_raises_is_said_to_be_the_environments(num_envs: int) -> None:
    with make_agent_and_envs(checkpoint(), "Allowed-v0", num_envs, env_kwargs={"by": "broken"}) as (agent, envs):
        said = r"^Allowed-v0: step 0 of seed 0.*: the environment's action_masks\(\) raised ZeroDivisionError: division"
        with pytest.raises(GatoError, match=said):
            list(steps(agent, envs, range(2)))


@pytest.mark.parametrize("by", ["info", "method"])
def test_predict_and_distribution_obey_the_masks_too(by: str) -> None:
    with make_agent_and_envs(checkpoint(), "Allowed-v0", 3, env_kwargs={"by": by}, temperature=1.0) as (agent, envs):
        observation, _ = envs.reset(seed=[0, 1, 2])
        allowed = [env.unwrapped.allowed for env in envs.envs]
        probabilities = agent.distribution(observation)[""].probabilities
        actions, _ = agent.predict(observation)
    assert np.array_equal(actions, allowed)
    assert np.array_equal(np.asarray(probabilities).reshape(3, 4).argmax(1), allowed)
    assert np.asarray(probabilities).reshape(3, 4).max(1) == pytest.approx(1.0)
