"""Cross-entropy of action tokens, over the legal ids of each and at the positions that predict them."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gato_agent.dataset.batch import CONDITIONAL_EVERY, Batch, Targets
from gato_agent.model.gato import Gato

CHUNK = 2**18  # logits that fit into a CPU's cache


class ActionLoss(nn.Module):
    """`action_loss` as a module, as DistributedDataParallel and FSDP need it.

    Args:
        model: to be trained.
        bin_label_smoothing: standard deviation in bins of a Gaussian over the target's neighbours; 0 for none.
        precision: of matrix products; those of the patch tower and of the loss stay in float32.
    """

    def __init__(self, model: Gato, bin_label_smoothing: float, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.bin_label_smoothing, self.precision = model, bin_label_smoothing, precision

    def forward(self, batch: Batch) -> "Losses":
        """Sums of losses over the targets of a batch."""
        with torch.autocast(batch.tokens.device.type, self.precision, enabled=self.precision != torch.float32):
            return action_loss(self.model, batch, self.bin_label_smoothing)


class Losses(NamedTuple):
    """Sums over the action tokens of a batch, of cross-entropies in nats times the token's weight.

    Attributes:
        total: [], to be minimised: marginal and conditional loss of an action decoder, which train separate parameters.
        families: float32 [families], of tokens conditioned on the earlier tokens of their action.
        weights: float32 [families], sums of the token weights.
        marginal: [], of tokens predicted independently; equals `families.sum()` without an action decoder.
    """

    total: Tensor
    families: Tensor
    weights: Tensor
    marginal: Tensor


def action_loss(model: Gato, batch: Batch, bin_label_smoothing: float = 0.0) -> Losses:
    """Cross-entropy of the action tokens of a batch, over the legal ids of each.

    Logits are computed only at the positions that predict an action token and only for its legal ids.
    """
    hidden = model(
        batch.tokens, batch.patches, local=batch.local, intervals=batch.intervals, segment=batch.segment,
        index=batch.index, prefix_len=batch.prefix_len, until=batch.until, value_groups=batch.value_groups,
    ).flatten(0, 1)  # fmt: skip
    score = _Scorer(model, batch.targets, bin_label_smoothing)
    learn = _chain_losses if model.action_decoder else _stream_losses
    total, marginal, conditional = learn(model, hidden, batch.targets, score)
    families = torch.zeros(batch.targets.families, dtype=torch.float64, device=hidden.device)
    weights = families.clone()
    for loss in conditional:
        rows = slice(0, len(loss))
        families.index_add_(0, batch.targets.family[rows], loss.double())
        weights.index_add_(0, batch.targets.family[rows], batch.targets.weight[rows].double())
    return Losses(total, families.float(), weights.float(), marginal)


def _stream_losses(
    model: Gato, hidden: Tensor, targets: Targets, score: "_Scorer"
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Total, marginal sum, and losses by action token, where action tokens are tokens of the sequence."""
    total, losses_of = hidden.new_zeros((), dtype=torch.float32), []
    offsets = torch.tensor(targets.offset, device=hidden.device)
    places = [targets.position[: targets.count(at)] + offsets[at] for at in range(len(targets.offset))]
    states = torch.split(hidden[torch.cat(places)], [len(place) for place in places]) if places else ()
    for at, state in enumerate(states):
        part, losses = score(at, state.float())
        total = total + part
        losses_of.append(losses)
    return total, total.detach(), losses_of


def _chain_losses(
    model: Gato, hidden: Tensor, targets: Targets, score: "_Scorer"
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Total, marginal sum, and losses by action token with an action decoder and teacher forcing."""
    decoder, losses_of = model.action_decoder, list[Tensor]()
    assert decoder is not None
    total = conditional = hidden.new_zeros((), dtype=torch.float32)
    learned = slice(score.begin, None, score.every)  # timesteps that train the conditional part
    state = detached = hidden[:0]
    chain, group = decoder.begin(state), -1
    for at, offset in enumerate(targets.offset):
        count = targets.count(at)
        if offset != group:  # the next token of the sequence predicts from here on
            group, state = offset, hidden[targets.position[:count] + offset]
            detached = state.detach()[learned]
        state = state[:count]
        marginal = decoder.marginal_state(state, at)
        part, losses = score(at, marginal.float())
        total = total + part
        marginal_states = marginal.detach()[learned]
        detached, chain = (
            detached[: len(marginal_states)],
            chain.first(len(marginal_states)) if at else decoder.begin(marginal_states),
        )
        if at:
            part, losses = score.conditional(at, decoder.state(marginal_states, detached, chain, at).float(), count)
            conditional = conditional + part
        losses_of.append(losses)
        if at + 1 < len(targets.offset):
            chain = decoder.extend(chain, targets.ids[:count, at][learned], at)
    return total + conditional, total.detach(), losses_of


class _Scorer:
    """Losses of hidden states against the targets of an action token.

    A smoothed target is a weighted mean of embedding rows, so that its logit is one product instead of one for each id.

    Attributes:
        every: stride of the timesteps that train the conditional part.
        begin: first of these timesteps.
    """

    def __init__(self, model: Gato, targets: Targets, bin_label_smoothing: float) -> None:
        self.model, self.targets, self.bin_label_smoothing = model, targets, bin_label_smoothing
        self.learning = torch.is_grad_enabled()
        self.every = CONDITIONAL_EVERY if self.learning else 1
        self.begin = targets.begin if self.learning else 0
        self.rows: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, at: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Sum [] and weighted losses float32 [n] of states [n, width] that predict action token `at`."""
        targets, ranges = self.targets, self.targets.ranges[at]
        total, losses = states.new_zeros(()), states.new_empty(len(states))
        for low, high, rows, _ in ranges:
            some = states if len(ranges) == 1 else states[rows]
            wanted = targets.ids[rows, at] - low
            part, each = _cross_entropy(some, *self._table(low, high), wanted, targets.weight[rows], self.learning)
            total = total + part
            losses[rows] = each
        return total, losses

    def conditional(self, at: int, states: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Sum [] and weighted losses float32 [count] of the conditional part, from every `every`-th timestep.

        Weights are scaled by `every`. The embedding table gets no gradient. Losses of skipped timesteps are 0.
        """
        targets, ranges = self.targets, self.targets.ranges[at]
        total, losses = states.new_zeros(()), states.new_zeros(count)
        for low, high, every, learned in ranges:
            rows = learned if self.every > 1 else every
            some = states if len(ranges) == 1 else states[(rows - self.begin) // self.every]
            table, aims = self._table(low, high)
            wanted, weight = targets.ids[rows, at] - low, targets.weight[rows] * self.every
            part, each = _cross_entropy(some, table.detach(), aims.detach(), wanted, weight, self.learning, False)
            total = total + part
            losses[rows] = each
        return total, losses

    def _table(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Embedding rows of the ids [low, high), and of each id's smoothed target."""
        if (low, high) not in self.rows:
            rows = wanted = self.model.scored(low, high).float()
            if self.bin_label_smoothing and self.model.config.vocabulary.ordered(low):
                with torch.autocast(rows.device.type, enabled=False):
                    wanted = gaussian(high - low, self.bin_label_smoothing, rows.device) @ rows
            self.rows[low, high] = rows, wanted
        return self.rows[low, high]


def _cross_entropy(
    states: Tensor, rows: Tensor, wanted: Tensor, target: Tensor, weight: Tensor, learning: bool, table: bool = True
) -> tuple[Tensor, Tensor]:
    """`CrossEntropy.forward`, typed."""
    result: tuple[Tensor, Tensor] = CrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, rows, wanted, target, weight, learning, table
    )
    return result


class CrossEntropy(torch.autograd.Function):
    """Fused linear layer and cross-entropy, chunked over states so that the logits are never in memory at once.

    Gradients are computed in the forward pass, a chunk at a time while its logits are in the CPU's cache (as in Liger
    Kernel, Hsu et al. 2024).
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, rows: Tensor, wanted: Tensor, target: Tensor, weight: Tensor, learning: bool,
        table: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Sum of the weighted losses [], and the weighted losses [n], which have no gradient.

        Args:
            ctx: autograd context; it saves the gradients.
            states: float32 [n, width], hidden states.
            rows: float32 [ids, width], weights of the logits.
            wanted: float32 [ids, width], weights of the target logits: rows, or their smoothed means.
            target: int64 [n], indices into `wanted`.
            weight: float32 [n], of the losses.
            learning: True to compute gradients.
            table: True to compute those of `rows` and `wanted` too.
        """
        losses = torch.empty(len(states), device=states.device)
        gradients = torch.empty_like(states), torch.zeros_like(rows), torch.zeros_like(wanted)
        count = max(1, (CHUNK if states.device.type == "cpu" else 256 * CHUNK) // len(rows))
        with torch.autocast(states.device.type, enabled=False):  # bfloat16 is too coarse for logits
            for begin in range(0, len(states), count):
                part = slice(begin, begin + count)
                some, aim, share = states[part], wanted[target[part]], weight[part].unsqueeze(1)
                scores = some @ rows.T
                top = scores.amax(1, keepdim=True)
                shares = scores.sub_(top).exp_()
                sums = shares.sum(1, keepdim=True)
                losses[part] = ((sums.log() + top - (some * aim).sum(1, keepdim=True)) * share).squeeze(1)
                if learning:
                    shares *= share / sums
                    torch.sub(shares @ rows, aim * share, out=gradients[0][part])
                    if table:
                        gradients[1].addmm_(shares.T, some)
        if learning:
            if table:
                gradients[2].index_add_(0, target, states * weight.unsqueeze(1), alpha=-1)
            ctx.save_for_backward(*gradients)
            ctx.table = table
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `states`, `rows` and `wanted`."""
        states, rows, wanted = ctx.saved_tensors
        rows, wanted = (x * scale if ctx.table else None for x in (rows, wanted))
        return states * scale, rows, wanted, None, None, None, None


@lru_cache
def gaussian(bins: int, deviation: float, device: torch.device) -> Tensor:
    """Label-smoothing kernel [bins, bins]: row i is a discretised Gaussian around bin i that sums to 1."""
    index = torch.arange(bins, device=device)
    return torch.softmax(-((index[:, None] - index) ** 2) / (2 * deviation**2), dim=1)
