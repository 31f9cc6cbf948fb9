"""Sampling: one id per environment and action token, greedy or at a temperature, among allowed ids."""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from gato_agent.envs.errors import UsageError

LEAST_TEMPERATURE = 1e-6  # above 0: beyond, products with its inverse would overflow
SEEDS = 2**64  # of PyTorch's generators


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
        """Sampler of some environments, with their random streams."""
        return Sampler(self.temperature, [self._generators[env] for env in envs])

    def restart(self, env: int, seed: int) -> None:
        """Begin the random stream of an environment again."""
        self._generators[env].manual_seed(seed % SEEDS)

    def uniforms(self, count: int) -> Tensor | None:
        """One number in [0, 1) for each environment and token, float64 [env, count]; None where greedy."""
        if not self.temperature:
            return None
        return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in self._generators])


def check_temperature(temperature: float | None) -> None:
    """Raise UsageError for a temperature that cannot be sampled at; None stands for one that is not set."""
    if temperature and not LEAST_TEMPERATURE <= temperature < math.inf:  # also refuses NaN
        raise UsageError(f"--temperature {temperature}: use 0 for greedy actions, or {LEAST_TEMPERATURE} and more")


def random_stream(seed: int) -> torch.Generator:
    """Random stream of an environment; seeds are any integers."""
    return torch.Generator().manual_seed(seed % SEEDS)


class MaskBlocks:
    """Layout of a mask: a block for each action token.

    A block has a row of the token's legal ids. That of a digit has a row for each choice of the digits before it.

    Args:
        counts: legal ids of each action token.
        digits: index of each action token among the digits of its number; 0 for tokens that are no digits.

    Attributes:
        digits: as given.
        width: of a mask, the sum of all blocks.
    """

    def __init__(self, counts: Sequence[int], digits: Sequence[int] = ()) -> None:
        self.digits = list(digits) or [0] * len(counts)
        self._counts = list(counts)
        self._rows = [math.prod(counts[at - digit : at]) for at, digit in enumerate(self.digits)]
        sizes = [rows * count for rows, count in zip(self._rows, counts, strict=True)]
        *self._begins, self.width = accumulate(sizes, initial=0)

    def block(self, at: int) -> slice:
        """Slice of a mask that is the block of action token `at`."""
        return slice(self._begins[at], self._begins[at] + self._rows[at] * self._counts[at])

    def row(self, allowed: Tensor, chosen: Sequence[Tensor], at: int) -> Tensor:
        """Allowed ids of action token `at`: bool [env, ids].

        Args:
            allowed: bool [env, width].
            chosen: of the action tokens before it, each an index among its legal ids, int64 [env].
            at: index of the action token.
        """
        block = allowed[:, self.block(at)]
        if self._rows[at] == 1:
            return block
        row = torch.zeros_like(chosen[at - 1])
        for before in range(at - self.digits[at], at):
            row = row * self._counts[before] + chosen[before]
        rows = block.reshape(len(block), self._rows[at], self._counts[at])
        return torch.take_along_dim(rows, row[:, None, None], 1).squeeze(1)


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
