"""A model that no test is kind to."""

import torch

from gato_agent.config import GatoConfig
from gato_agent.model import Gato


def harsh(config: GatoConfig) -> Gato:
    """Random weights that attend sharply: untrained attention is nearly uniform and would hide mistakes."""
    torch.manual_seed(0)
    model = Gato(config).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[: 2 * config.width] *= 2
    return model
