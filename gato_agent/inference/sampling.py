"""Sampling: one id per environment and action token, greedy or at a temperature, among allowed ids."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Sampler:
    """Temperature and random streams: greedy at 0, else samples from softmax(logits / temperature).

    Greedy takes the likeliest id, but of ordered ids (bins) the median: neighbouring bins are about equally likely, so
    the median has a smaller error than the mode.

    Args:
        temperature: 0 for greedy.
        generators: one random stream per environment, so that environments are independent.
    """

    def __init__(self, temperature: float = 0.0, generators: Sequence[torch.Generator] = ()) -> None:
        self.temperature, self._generators = temperature, generators

    def of(self, envs: Sequence[int]) -> "Sampler":
        """The sampler of some environments, whose random streams go on."""
        return Sampler(self.temperature, [self._generators[env] for env in envs])

    def restart(self, env: int, seed: int) -> None:
        """Begin the random stream of an environment again."""
        self._generators[env].manual_seed(seed)

    def uniforms(self, count: int) -> Tensor | None:
        """One number in [0, 1) for each environment and token, float64 [env, count]; None where greedy."""
        if not self.temperature:
            return None
        return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in self._generators])


def choose(
    logits: Tensor, *, ordered: bool = False, uniform: Tensor | None = None, temperature: float | Tensor = 1.0,
    allowed: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Index of the chosen id: int64 [env].

    Args:
        logits: float [env, ids].
        ordered: True if ids are bins.
        uniform: float64 [env], in [0, 1), quantile of the distribution to take; None for greedy.
        temperature: of the distribution that is sampled.
        allowed: bool [env, ids], with at least one True in each row; None for all.
    """
    scores = logits.double()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    if uniform is None and not ordered:
        return scores.argmax(-1)
    if uniform is not None:
        scores = scores / temperature
    probabilities = scores.softmax(-1)
    below = probabilities.cumsum(-1)
    index = (below < 0.5 if uniform is None else below <= uniform.unsqueeze(-1) * below[..., -1:]).sum(-1)
    # Rounding may carry past the last possible id.
    last = logits.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1)
    return torch.minimum(index, last)


def log_prob(
    logits: Tensor, index: Tensor, temperature: float = 1.0, allowed: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Log-probability of an id under softmax(logits / temperature) over allowed ids, float64 [env].

    Args:
        logits: float [env, ids].
        index: int64 [env].
        temperature: above 0.
        allowed: bool [env, ids]; None for all.
    """
    scores = logits.double() / temperature
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)
