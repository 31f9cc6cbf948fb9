"""A model with random weights under which mistakes show."""

import torch
from torch import nn

from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato


def harsh(config: GatoConfig) -> Gato:
    """Model with sharp random attention, and with an action decoder whose correction is not zero.

    Untrained attention is nearly uniform, and an untrained correction is zero: both would hide mistakes.
    """
    torch.manual_seed(0)
    model = Gato(config).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[: 2 * config.width] *= 2
    if model.action_decoder is not None:
        for layer in model.action_decoder.correction.out:
            nn.init.normal_(layer.weight, std=0.5)
    return model
