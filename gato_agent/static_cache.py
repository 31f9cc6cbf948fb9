"""The key/value ring for recorded steps: all that changes from step to step lies in tensors, at fixed addresses."""

import torch
from torch import Tensor

from gato_agent.cache import NEVER, Cache
from gato_agent.config import GatoConfig
from gato_agent.spaces import PAD

BUCKETS = 128, 256, 512, 1024  # numbers of slots that are read while no more were written


class StaticCache(Cache):
    """A `Cache` whose passes can be recorded once and replayed: where they write is read from the device.

    `plan` says on the host how many slots a step may read; a recorded step belongs to that number.

    Attributes:
        written: int64 [], tokens written so far; the next one goes to slot `written % slots`.
        bucket: slots that are read, all that were written among them.
    """

    multiple = 64  # for attention kernels, which like aligned rows

    def __init__(
        self, config: GatoConfig, lanes: int, longest_pass: int, prompt: int = 0, *,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(config, lanes, longest_pass, prompt, device=device, dtype=dtype)
        self.written = torch.zeros((), dtype=torch.int64, device=device)
        self.buckets = [*(size for size in BUCKETS if size < self.slots), self.slots]
        self.bucket = self.slots

    def plan(self, tokens: int) -> int:
        """Choose the bucket for a step that writes so many tokens; returns it."""
        self._written += tokens
        self.bucket = next((size for size in self.buckets if self._written <= size), self.slots)
        return self.bucket

    @property
    def used(self) -> bool:
        """Whether anything was written."""
        return self._written > 0

    def clear(self) -> None:
        """Forget everything; what is left in the ring is seen by nobody."""
        self.index.fill_(NEVER)
        self.pinned.fill_(False)
        self.age.zero_()
        self.written.zero_()
        self._written = 0

    def advance(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `Cache`; who sees whom is bool [lane, 1, n, bucket]."""
        n = tokens.shape[1]
        at = (self.written + self._slot[:n]) % self.slots
        self._place = self.prompt + at
        query = self.age.unsqueeze(1) + self._slot[:n]  # [lane, n]
        self.index.index_copy_(1, at, query.masked_fill(tokens == PAD, NEVER))
        self.age += n
        self.written += n
        distance = query.unsqueeze(2) - self.index[:, None, : self.bucket]  # [lane, n, bucket]
        itself = at.unsqueeze(1) == self._slot[: self.bucket]  # a PAD sees itself
        return query, (((distance >= 0) & (distance < self.recent)) | itself).unsqueeze(1)

    def update(self, held: Tensor, given: Tensor) -> Tensor:
        """See `Cache`; returns the prompt's and those of the bucket."""
        held.index_copy_(2, self._place, given.to(held.dtype))
        return held[:, :, : self.prompt + self.bucket]
