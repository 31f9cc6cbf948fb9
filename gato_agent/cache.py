"""The key/value ring: two buffers, an index of what they hold, and `update`; before it the prompts, which stay."""

import torch
from torch import Tensor

from gato_agent.config import GatoConfig
from gato_agent.spaces import PAD

NEVER = -(2**62)  # token index of a slot that nothing may see


class Cache:
    """Keys and values of the prompt and of the last tokens of every lane.

    The ring holds `context - prompt + longest_pass - 1` slots: the first query of a pass still needs
    `context - prompt - 1` tokens before it when the last one has been written. Lanes share the write position and
    keep their own token index, so each can restart alone.

    Attributes:
        k, v: [layer, lane, head, prompt + slot, head_size].
        index: int64 [lane, slot], the token index of the key there, NEVER where there is none to see.
        age: int64 [lane], index of the lane's next token.
        pinned: bool [lane, prompt], where the prompt has a key to see.
    """

    multiple = 1  # to which the number of slots is rounded up

    def __init__(
        self,
        config: GatoConfig,
        lanes: int,
        longest_pass: int,
        prompt: int = 0,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.prompt, self.recent = prompt, config.context - prompt
        self.slots = -(-(self.recent + longest_pass - 1) // self.multiple) * self.multiple
        shape = (config.layers, lanes, config.heads, prompt + self.slots, config.head_size)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.pinned = torch.zeros(lanes, prompt, dtype=torch.bool, device=device)
        self.index = torch.full((lanes, self.slots), NEVER, device=device)
        self.age = torch.zeros(lanes, dtype=torch.int64, device=device)
        self._slot = torch.arange(self.slots, device=device)
        self._moves: list[tuple[slice, slice]] = []  # from where in this pass to where in the ring
        self._written = 0

    def restart(self, lanes: Tensor, age: int = 0) -> None:
        """Forget the episodes of some lanes, bool [lane], but not their prompts; their next token has index `age`."""
        self.index.masked_fill_(lanes.unsqueeze(1), NEVER)
        self.age.masked_fill_(lanes, age)

    def advance(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Make room for the next tokens of every lane.

        Args:
            tokens: integer [lane, n], n at most `longest_pass`; PAD takes a slot that only it sees.

        Returns:
            Token index [lane, n], and who sees whom: bool [lane, 1, n, filled slots].
        """
        n, first = tokens.shape[1], self._written % self.slots
        before = min(n, self.slots - first)  # tokens that fit before the ring's end; the others go to its beginning
        self._moves = [(slice(0, before), slice(first, first + before))]
        if before < n:
            self._moves.append((slice(before, n), slice(0, n - before)))
        query = self.age.unsqueeze(1) + self._slot[:n]  # [lane, n]
        for source, target in self._moves:
            self.index[:, target] = query[:, source].masked_fill(tokens[:, source] == PAD, NEVER)
        self.age += n
        self._written += n
        distance = query.unsqueeze(2) - self.index[:, None, : self.filled]  # [lane, n, filled]
        seen = (distance >= 0) & (distance < self.recent)
        for source, target in self._moves:
            seen[:, source, target].diagonal(dim1=1, dim2=2).fill_(True)  # a PAD sees itself
        return query, seen.unsqueeze(1)

    @property
    def filled(self) -> int:
        """Number of slots that were ever written, counted from the first."""
        return min(self._written, self.slots)

    def update(self, held: Tensor, given: Tensor) -> Tensor:
        """Write keys or values of one layer.

        Args:
            held: `k[layer]` or `v[layer]`.
            given: those of this pass, [lane, head, n, head_size].

        Returns:
            The prompt's and what the ring holds.
        """
        ring = held[:, :, self.prompt :]
        for source, target in self._moves:
            ring[:, :, target] = given[:, :, source]
        return held[:, :, : self.prompt + self.filled]


class Pinning:
    """What a pass over prompts knows as its cache: keeps their keys and values for some lanes, disturbing no other.

    Args:
        cache: of all lanes.
        lanes: bool [lane], those that the pass is for, one row each.
    """

    prompt = 0  # what comes before a prompt

    def __init__(self, cache: Cache, lanes: Tensor) -> None:
        self.cache, self.lanes = cache, lanes.nonzero().flatten()
        self.k, self.v = cache.k, cache.v

    def advance(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Token index [prompt], and who sees whom: bool [row, 1, prompt, prompt]."""
        self.cache.pinned[self.lanes] = tokens != PAD
        index = torch.arange(tokens.shape[1], device=tokens.device)
        distance = index[:, None] - index
        return index, ((distance >= 0) & (tokens != PAD)[:, None, None, :]) | (distance == 0)

    def update(self, held: Tensor, given: Tensor) -> Tensor:
        """Keep keys or values of one layer, [row, head, prompt, head_size]; they are all that is seen."""
        held[self.lanes, :, : self.cache.prompt] = given.to(held.dtype)
        return given
