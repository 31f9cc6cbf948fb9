"""Probabilities of an agent's next action, leaf by leaf."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gato_agent.envs.spaces.flatten import Leaf
from gato_agent.inference.decoders.sampling import log_prob
from gato_agent.tokens.space_tokenizer import SpaceTokenizer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LeafDistribution:
    """Distribution of one leaf of the action, element by element in row-major order.

    Attributes:
        probabilities: for each element float64 [env, values], which sum to 1.
        values: for each element the values of a Discrete, MultiDiscrete, MultiBinary or Box leaf, rising, [values];
            of a Box those in the middle of the bins.
        shape: of the leaf.
    """

    probabilities: list[Floats]
    values: list[Floats]
    shape: tuple[int, ...]

    @property
    def mean(self) -> Floats:
        """Expected value of each element, float64 [env, *shape]."""
        return self._shaped([p @ v for p, v in zip(self.probabilities, self.values, strict=True)])

    @property
    def median(self) -> Floats:
        """Median of each element, float64 [env, *shape]."""
        return self._quantile(0.5)

    def interval(self, level: float = 0.9) -> tuple[Floats, Floats]:
        """Central interval that holds a share of the probability: lower and upper ends, float64 [env, *shape]."""
        return self._quantile((1 - level) / 2), self._quantile((1 + level) / 2)

    def _quantile(self, share: float) -> Floats:
        def cut(probabilities: Floats, values: Floats) -> Floats:
            below = probabilities.cumsum(1)
            cut_at: Floats = values[np.minimum((below < share * below[:, -1:]).sum(1), len(values) - 1)]
            return cut_at

        return self._shaped([cut(p, v) for p, v in zip(self.probabilities, self.values, strict=True)])

    def _shaped(self, elements: Sequence[Floats]) -> Floats:
        return np.stack(elements, axis=1).reshape(-1, *self.shape)


def distributions(
    tokenizer: SpaceTokenizer, logits: Sequence[Tensor], temperature: float, allowed: Sequence[Tensor] | None
) -> dict[str, LeafDistribution]:
    """Distributions of the leaves of an action, by path.

    Args:
        tokenizer: of the task.
        logits: of each action token, float [env, ids legal for it].
        temperature: above 0.
        allowed: for each action token, bool [env, ids legal for it]; None for all.
    """
    probabilities = []
    for token, part in enumerate(logits):
        scores = part.double().cpu() / temperature
        if allowed is not None:
            scores = scores.masked_fill(~allowed[token], -np.inf)
        probabilities.append(scores.softmax(-1).numpy())
    return {leaf.path: _leaf(tokenizer, leaf, slot, probabilities) for leaf, slot in tokenizer.acted}


def log_probs(logits: list[Tensor], index: Tensor, temperature: float, allowed: Sequence[Tensor] | None) -> Floats:
    """Log-probability of one action per environment, float64 [env]: the sum over its tokens.

    Args:
        logits: of each action token, float [env, ids legal for it].
        index: int64 [env, A], each token's index among its legal ids.
        temperature: above 0.
        allowed: for each action token, bool [env, ids legal for it]; None for all.
    """
    total = np.zeros(len(index))
    for token, part in enumerate(logits):
        mask = None if allowed is None else allowed[token]
        total += log_prob(part.cpu(), index[:, token], temperature, mask).numpy()
    return total


def _leaf(tokenizer: SpaceTokenizer, leaf: Leaf, slot: slice, probabilities: list[Floats]) -> LeafDistribution:
    own = probabilities[slot]
    shape = leaf.shape
    most = max((part.shape[1] for part in own), default=0)
    index = np.minimum(np.arange(most)[:, None], tokenizer.legal[:, 1] - tokenizer.legal[:, 0] - 1)
    column = tokenizer.decode_actions(tokenizer.legal[:, 0] + index)[leaf.path]
    whole = column.dtype != object and column[:1].size == len(own)
    if not whole:  # Text: indices into the charset, the end last; or digits of a large Discrete
        return LeafDistribution(own, [np.arange(part.shape[1], dtype=np.float64) for part in own], (len(own),))
    table = column.reshape(most, -1).astype(np.float64)
    return LeafDistribution(own, [table[: part.shape[1], at] for at, part in enumerate(own)], tuple(shape))
