"""Cross-entropy of action tokens: where an action is predicted, over the ids that are legal there, and nowhere else."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gato_agent.model import Gato
from gato_agent.windows import Batch


class ActionLoss(nn.Module):
    """`action_loss` as a module, so that processes can share it.

    Args:
        model: to be trained.
        smooth_bins: standard deviation, in bins, by which targets of continuous actions are spread over neighbours.
        precision: of matrix products; those of the patch tower and of the loss stay in float32.
    """

    def __init__(self, model: Gato, smooth_bins: float, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.smooth_bins, self.precision = model, smooth_bins, precision

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the targets of each family of a batch, and their numbers."""
        with torch.autocast(batch.tokens.device.type, self.precision, enabled=self.precision != torch.float32):
            return action_loss(self.model, batch, self.smooth_bins)


def action_loss(model: Gato, batch: Batch, smooth_bins: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the action tokens, over the ids legal for each.

    Logits are computed at the positions that predict an action token and for its legal ids, nowhere else.

    Returns:
        Sums in nats, and numbers of targets, each float32 [families].
    """
    states = model(
        batch.tokens, batch.patches, local=batch.local, intervals=batch.intervals, segment=batch.segment,
        index=batch.index, pinned=batch.pinned, packs=batch.packs,
    )  # fmt: skip
    states = model.predicting(states).flatten(0, -2)
    continuous = model.config.vocabulary.continuous
    sums, counts = [torch.zeros((), device=states.device)] * batch.families, [0] * batch.families
    for low, high, position, ids, family in batch.targets:
        logits = model.logits(states[position], low, high).float()
        target: Tensor = ids - low
        if smooth_bins and continuous <= low < model.config.vocabulary.discrete:
            target = gaussian(high - low, smooth_bins, logits.device)[target]
        sums[family] = sums[family] + F.cross_entropy(logits, target, reduction="sum")
        counts[family] += len(ids)
    return torch.stack(sums), torch.tensor(counts, dtype=torch.float32, device=states.device)


@lru_cache
def gaussian(bins: int, deviation: float, device: torch.device) -> Tensor:
    """Row i: a discretised normal around bin i, in bins, normalised: [bins, bins]."""
    index = torch.arange(bins, device=device)
    return torch.softmax(-((index[:, None] - index) ** 2) / (2 * deviation**2), dim=1)
