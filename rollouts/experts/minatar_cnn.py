"""A small convolutional network for boards of boolean planes, such as MinAtar's 10 x 10 x C."""

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

CHANNELS = 16


class PlanesCNN(BaseFeaturesExtractor):
    """One 3 x 3 convolution and one layer, as in the MinAtar paper (Young and Tian 2019, arXiv:1903.03176)."""

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        height, width, planes = observation_space.shape
        self.layers = nn.Sequential(
            nn.Conv2d(planes, CHANNELS, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(CHANNELS * (height - 2) * (width - 2), features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Features [B, features_dim] of planes [B, H, W, C], zeros and ones."""
        features: Tensor = self.layers(torch.permute(observations, (0, 3, 1, 2)))
        return features
