"""Targets of random actions, and reference losses by PyTorch's cross-entropy over all scores."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.dataset.batch import CONDITIONAL_EVERY, Batch, IdRange, Targets
from gato_agent.inference.decoders.decoder import Legal
from gato_agent.model.gato import Gato
from gato_agent.tokens.timestep_layout import ACTION_GROUP
from gato_agent.training.loss import gaussian


class Part(NamedTuple):
    """Actions of one kind.

    Attributes:
        position: int64 [k], flat place of the token that predicts the first action token.
        ids: int64 [k, A].
        legal: half-open id range of each action token.
        family: of the task.
        weight: of each action token.
    """

    position: Tensor
    ids: Tensor
    legal: Legal
    family: int = 0
    weight: float = 1.0


def random_ids(count: int, legal: Legal, generator: torch.Generator) -> Tensor:
    """Legal ids int64 [count, A]."""
    return torch.stack([torch.randint(low, high, (count,), generator=generator) for low, high in legal], dim=1)


def targets_of(parts: Sequence[Part], *, action_decoder: bool, families: int = 1, begin: int = 0) -> Targets:
    """Targets of actions of several kinds, those of most tokens first.

    The conditional part learns from the rows `begin`, `begin + CONDITIONAL_EVERY`, ...
    """
    parts = sorted(parts, key=lambda part: -len(part.legal))
    most, counts = len(parts[0].legal), [len(part.position) for part in parts]
    ids, rows = torch.zeros(sum(counts), most, dtype=torch.int64), torch.arange(sum(counts)).split(counts)
    for part, own in zip(parts, rows, strict=True):
        ids[own, : len(part.legal)] = part.ids
    tokens = [part.ids.numel() for part in parts]
    return Targets(
        torch.cat([part.position for part in parts]),
        ids,
        torch.cat([torch.full((count,), part.family) for part, count in zip(parts, counts, strict=True)]),
        torch.cat([torch.full((count,), part.weight) for part, count in zip(parts, counts, strict=True)]),
        [
            [
                IdRange(*part.legal[at], own, own[own % CONDITIONAL_EVERY == begin])
                for part, own in zip(parts, rows, strict=True)
                if at < len(part.legal)
            ]
            for at in range(most)
        ],
        begin,
        [at // ACTION_GROUP if action_decoder else at for at in range(most)],
        families,
        sum(tokens),
        sum(part.weight * count for part, count in zip(parts, tokens, strict=True)),
    )


def hidden_states(model: Gato, batch: Batch) -> Tensor:
    """Hidden states [batch * length, width]."""
    hidden = model(
        batch.tokens, batch.patches, local=batch.local, intervals=batch.intervals, segment=batch.segment,
        index=batch.index, prefix_len=batch.prefix_len, until=batch.until, value_groups=batch.value_groups,
    )  # fmt: skip
    return hidden.flatten(0, 1)  # type: ignore[no-any-return]


class Learned(NamedTuple):
    """Losses [k, A] of the action tokens of a part.

    Attributes:
        marginal: independently of the tokens before, through all that the marginal states depend on.
        conditional: given the expert's tokens before, through the correction alone; column 0 is the marginal one's.
    """

    marginal: Tensor
    conditional: Tensor


def losses_of(model: Gato, hidden: Tensor, part: Part, bin_label_smoothing: float = 0.0) -> Learned:
    """Losses of a part from hidden states [batch * length, width]; both the same without an action decoder."""
    decoder, losses = model.action_decoder, ([], [])
    chain = decoder.begin(hidden[part.position]) if decoder else None
    for at, (low, high) in enumerate(part.legal):
        wanted = part.ids[:, at] - low
        if bin_label_smoothing and model.config.vocabulary.ordered(low):
            wanted = gaussian(high - low, bin_label_smoothing, hidden.device)[wanted]
        offset = at // ACTION_GROUP if decoder else at
        state, table = hidden[part.position + offset], model.scored(low, high)
        if decoder is None or chain is None:
            marginal = conditional = F.cross_entropy(state @ table.T, wanted, reduction="none")
        else:
            score = decoder.marginal_state(state, at)
            marginal = conditional = F.cross_entropy(score @ table.T, wanted, reduction="none")
            if at:
                conditional_state = decoder.state(score.detach(), state.detach(), chain, at)
                conditional = F.cross_entropy(conditional_state @ table.detach().T, wanted, reduction="none")
            chain = decoder.extend(chain, part.ids[:, at], at)
        losses[0].append(marginal)
        losses[1].append(conditional)
    return Learned(*(torch.stack(each, dim=1) for each in losses))
