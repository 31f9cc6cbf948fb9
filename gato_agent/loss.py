"""Cross-entropy of action tokens: where an action is predicted, over the ids that are legal there, and nowhere else."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from gato_agent.model import Gato
from gato_agent.windows import Batch

CHUNK = 2**18  # scores that a CPU's caches hold


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
        """Sums over the targets of each family of a batch, and their weights."""
        with torch.autocast(batch.tokens.device.type, self.precision, enabled=self.precision != torch.float32):
            return action_loss(self.model, batch, self.smooth_bins)


def action_loss(model: Gato, batch: Batch, smooth_bins: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the action tokens, over the ids legal for each.

    Logits are computed at the positions that predict an action token and for its legal ids, nowhere else. A smoothed
    target is a mean of rows of the table, so that its score is one product, not one for each id.

    Returns:
        Sums in nats of targets times their weight, and of these weights, each float32 [families].
    """
    hidden = model(
        batch.tokens, batch.patches, local=batch.local, intervals=batch.intervals, segment=batch.segment,
        index=batch.index, pinned=batch.pinned, packs=batch.packs,
    ).flatten(0, 1)  # fmt: skip
    learning = torch.is_grad_enabled()
    scored: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # rows of the table, and their means around each
    sums, weights = [torch.zeros((), device=hidden.device)] * batch.families, [0.0] * batch.families
    asked = hidden[torch.cat([target.position for target in batch.targets])]  # once: it costs a pass over all of them
    parts = asked.split([len(target.position) for target in batch.targets])
    for (low, high, _, ids, family, place, weight), part in zip(batch.targets, parts, strict=True):
        if (low, high) not in scored:
            rows = wanted = model.scored(low, high).float()
            if smooth_bins and model.config.vocabulary.ordered(low):
                with torch.autocast(rows.device.type, enabled=False):
                    wanted = gaussian(high - low, smooth_bins, rows.device) @ rows
            scored[low, high] = rows, wanted
        rows, wanted = scored[low, high]
        here = model.predicting(part, place).float()
        total: Tensor = CrossEntropy.apply(here, rows, wanted, ids - low, learning)  # type: ignore[no-untyped-call]
        sums[family] = sums[family] + weight * total
        weights[family] += weight * len(ids)
    # Moved without waiting: else backward would begin only when a GPU has done all of forward.
    return torch.stack(sums), torch.tensor(weights).to(hidden.device, non_blocking=True)


class CrossEntropy(torch.autograd.Function):
    """Sum over n states of their cross-entropy, whose scores are never all there at once.

    Gradients are found in the forward pass, some rows at a time while their scores lie in a cache (as in Liger Kernel,
    Hsu et al. 2024): one pass over memory instead of ten.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, rows: Tensor, wanted: Tensor, target: Tensor, learning: bool) -> Tensor:
        """float32 [n, width], [ids, width], [ids, width], int64 [n] -> [].

        Args:
            ctx: keeps the gradients.
            states: of which each is scored.
            rows: that score them.
            wanted: rows, or means of rows, of which one is the target's.
            target: index of it.
            learning: whether gradients are wanted.
        """
        total = torch.zeros((), device=states.device)
        kept = torch.empty_like(states), torch.zeros_like(rows), torch.zeros_like(wanted)
        count = max(1, (CHUNK if states.device.type == "cpu" else 256 * CHUNK) // len(rows))
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 could not tell scores apart
            for begin in range(0, len(states), count):
                some, aim = states[begin : begin + count], wanted[target[begin : begin + count]]
                scores = some @ rows.T
                top = scores.amax(1, keepdim=True)
                shares = scores.sub_(top).exp_()
                sums = shares.sum(1, keepdim=True)
                total += (sums.log() + top - (some * aim).sum(1, keepdim=True)).sum()
                if learning:
                    shares /= sums
                    torch.sub(shares @ rows, aim, out=kept[0][begin : begin + count])
                    kept[1].addmm_(shares.T, some)
        if learning:
            ctx.save_for_backward(*kept[:2], kept[2].index_add_(0, target, states, alpha=-1))
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of states and of both kinds of rows."""
        states, rows, wanted = ctx.saved_tensors
        return states * scale, rows * scale, wanted * scale, None, None


@lru_cache
def gaussian(bins: int, deviation: float, device: torch.device) -> Tensor:
    """Row i: a discretised normal around bin i, in bins, normalised: [bins, bins]."""
    index = torch.arange(bins, device=device)
    return torch.softmax(-((index[:, None] - index) ** 2) / (2 * deviation**2), dim=1)
