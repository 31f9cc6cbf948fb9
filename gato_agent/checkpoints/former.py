"""Tensors of files of version 0.1, under their names of this version."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gato_agent.model.gato import Gato


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of version 0.1, of model or optimizer, under their names of this version."""
    return {name.replace("embedding.pack.", "embedding.value_group."): tensor for name, tensor in tensors.items()}


def upgraded(tensors: dict[str, Tensor], model: Gato) -> dict[str, Tensor]:
    """Weights of version 0.1, which predicts the numbers of an action independently, with a correction of zero.

    Other weights are returned as they are.
    """
    tensors = renamed(tensors)
    if not any(name.startswith("actions.") for name in tensors):
        return tensors
    names = {"actions.split.": "action_decoder.marginal.", "actions.table.": "action_decoder.table."}
    weights = {
        next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name): tensor
        for name, tensor in tensors.items()
    }
    added = {name: t for name, t in model.state_dict().items() if name.startswith("action_decoder.correction.")}
    return {**{name: torch.zeros(tensor.shape) for name, tensor in added.items()}, **weights}
