"""Cross-entropy of action tokens: where an action is predicted, over the ids that are legal there, and nowhere else."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.model import Gato
from gato_agent.windows import Batch


def action_loss(model: Gato, batch: Batch, smooth_bins: float = 0.0) -> Tensor:
    """Mean cross-entropy of the action tokens, over the ids legal for each: nats per target.

    Logits are computed at the positions that predict an action token and for its legal ids, nowhere else.
    """
    hidden = model(
        batch.tokens, batch.patches, local=batch.local, intervals=batch.intervals, segment=batch.segment
    ).flatten(0, 1)
    continuous = model.config.vocabulary.continuous
    total, count = hidden.new_zeros(()), 0
    for low, high, position, ids in batch.targets:
        logits = model.logits(hidden[position], low, high).float()
        target: Tensor = ids - low
        if smooth_bins and continuous <= low < model.config.vocabulary.discrete:
            target = gaussian(high - low, smooth_bins, logits.device)[target]
        total = total + F.cross_entropy(logits, target, reduction="sum")
        count += len(ids)
    return total / max(1, count)  # type: ignore[no-any-return]


@lru_cache
def gaussian(bins: int, deviation: float, device: torch.device) -> Tensor:
    """Row i: a discretised normal around bin i, in bins, normalised: [bins, bins]."""
    index = torch.arange(bins, device=device)
    return torch.softmax(-((index[:, None] - index) ** 2) / (2 * deviation**2), dim=1)
