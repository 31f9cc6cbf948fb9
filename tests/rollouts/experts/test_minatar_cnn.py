"""The network for planes learns, and is read from a zip like other networks."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import PPO

from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.minatar_cnn import PlanesCNN
from gato_agent.rollouts.experts.sb3.zip_model import read_zip

PLANES = Box(0, 1, (10, 10, 4), np.bool_)


class Corner(gym.Env[np.ndarray, int]):
    """Environment of one step, whose right action is the half of the first plane with the set cell."""

    observation_space = PLANES
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.half = int(self.np_random.integers(2))
        planes = np.zeros(PLANES.shape, np.bool_)
        planes[self.np_random.integers(10), 5 * self.half + self.np_random.integers(5), 0] = True
        return planes, {}

    def step(self, action):
        return np.zeros(PLANES.shape, np.bool_), float(action == self.half), True, False, {}


def test_it_learns_where_a_cell_is_set_and_is_read_from_its_zip(tmp_path):
    torch.set_num_threads(1)
    kwargs = {"features_extractor_class": PlanesCNN, "net_arch": [16]}
    model = PPO("MlpPolicy", Corner(), n_steps=512, learning_rate=2e-3, seed=0, device="cpu", policy_kwargs=kwargs)
    model.learn(4096)
    model.save(tmp_path / "model.zip")
    env = Corner()
    cases = [(env.reset(seed=seed)[0], env.half) for seed in range(200)]
    obs, halves = np.stack([planes for planes, _ in cases]), np.array([half for _, half in cases])
    expert = load_expert(str(tmp_path / "model.zip"), "x", PLANES, Discrete(2))
    actions = expert.act(obs, np.ones(200, np.bool_))
    assert np.mean(actions == halves) > 0.95
    np.testing.assert_array_equal(actions, model.predict(obs, deterministic=True)[0])
    assert (
        read_zip(tmp_path / "model.zip").kwargs["features_extractor_class"]
        == "gato_agent.rollouts.experts.minatar_cnn.PlanesCNN"
    )


def test_features_are_those_of_the_planes_wherever_their_axis_is():
    net = PlanesCNN(PLANES, 8)
    planes = torch.rand(3, 10, 10, 4)
    assert net(planes).shape == (3, 8)
    convolved = net.layers[:3](planes.permute(0, 3, 1, 2))
    torch.testing.assert_close(net(planes), net.layers[3:](convolved))
