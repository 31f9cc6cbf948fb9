"""Random batches of action tokens for tests of the loss and the trainer."""

import dataclasses

import torch

from gato_agent.dataset.batch import Batch
from gato_agent.model.config import GatoConfig
from tests.helpers.teaching import Part, random_ids, targets_of

SHORT = dataclasses.replace(GatoConfig.nano(), context=64, layers=2)


def random_parts(seed: int = 0) -> list[Part]:
    """Twenty actions of a bin, a choice and a bin, and thirty of one choice; in both windows of 128 tokens."""
    generator = torch.Generator().manual_seed(seed)
    choices, bins = SHORT.vocabulary.discrete, SHORT.vocabulary.continuous
    kinds = [(bins, bins + 1024), (choices, choices + 3), (bins, bins + 1024)], [(choices, choices + 3)]
    position = 4 * torch.randperm(64, generator=generator)
    return [
        Part(at, random_ids(len(at), legal, generator), legal)
        for at, legal in zip(position[:50].split([20, 30]), kinds, strict=True)
    ]


def batch_of(parts: list[Part], *, seed: int = 0, shape: GatoConfig = SHORT, families: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed + 1000)
    tokens = torch.randint(0, SHORT.vocabulary.size, (2, 128), generator=generator)
    targets = targets_of(parts, action_decoder=shape.action_decoder, families=families)
    return Batch(tokens, torch.full_like(tokens, -1), torch.zeros_like(tokens), None, None, targets)


def random_batch(seed: int = 0, shape: GatoConfig = SHORT) -> Batch:
    return batch_of(random_parts(seed), seed=seed, shape=shape)
