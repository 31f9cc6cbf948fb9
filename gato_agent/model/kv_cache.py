"""Key/value cache: static buffers for the prompt and for a ring of recent tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from gato_agent.model.config import GatoConfig
from gato_agent.tokens.space_tokenizer import PAD

EMPTY = -(2**62)  # position of a slot that holds no key
BUCKETS = 128, 256, 512, 1024  # slots that passes read as long as no more are written
ALIGNED = 64  # slots of the ring are a multiple of this: attention kernels like aligned rows


class KVCache:
    """Keys and values of the prompt and of the last tokens of every environment.

    A token's slot is its position plus 1, modulo the number of slots, so an episode's sums have the same order whatever
    the environment played before. The ring has at least `context - prefix + margin` slots: the first
    query of a pass still needs `context - prefix - 1` tokens before it when the last one has been written.

    Everything that changes from pass to pass is in tensors at fixed addresses, so CUDA graphs can capture passes.
    `plan` chooses on the host how many slots they read.

    Args:
        config: of the model.
        num_envs: environments, one row of the batch each.
        margin: largest number of cached tokens beyond the context of one of them: the tokens of a pass less one, or
            those that `rewind` removes.
        prefix: slots of the prompt.
        device: of the buffers.
        dtype: of keys and values.

    Attributes:
        k, v: [layer, env, head, prefix + slot, head_size].
        index: int64 [env, slot], the position of the key there, or EMPTY.
        next_position: int64 [env], position of the next token.
        prefix_visible: bool [env, prefix], True where the prompt has a key.
        bucket: slots of the ring that a pass reads, which include all that are written.
    """

    def __init__(
        self,
        config: GatoConfig,
        num_envs: int,
        margin: int,
        prefix: int = 0,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.prefix, self.recent = prefix, config.context - prefix
        self.slots = -(-(self.recent + margin) // ALIGNED) * ALIGNED
        shape = (config.layers, num_envs, config.heads, prefix + self.slots, config.head_size)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.prefix_visible = torch.zeros(num_envs, prefix, dtype=torch.bool, device=device)
        self.index = torch.full((num_envs, self.slots), EMPTY, device=device)
        self.next_position = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._slot = torch.arange(self.slots, device=device)
        self._env = torch.arange(num_envs, device=device).unsqueeze(1)
        self._at = torch.zeros(num_envs, 0, dtype=torch.int64, device=device)  # slots of this pass
        self.buckets = [*(size for size in BUCKETS if size < self.slots), self.slots]
        self.bucket = self.slots
        self._written = torch.zeros(num_envs, dtype=torch.int64)  # `next_position` on the host

    def reset_envs(self, envs: Tensor, position: int = 0) -> None:
        """Empty the ring of some environments, bool [env], whose next token is at `position`; prompts stay."""
        self.index.masked_fill_(envs.unsqueeze(1), EMPTY)
        self.next_position.masked_fill_(envs, position)

    def plan_reset(self, envs: Tensor, position: int = 0) -> None:
        """Note a `reset_envs` on the host; `envs` is on the CPU."""
        self._written.masked_fill_(envs, position)

    def plan(self, tokens: int, rewound: int = 0, envs: Tensor | None = None) -> int:
        """Choose and return the bucket of passes over `tokens` tokens, of which `rewound` are rewound.

        `envs` are bool [env], on the CPU; None for all.
        """
        most = int(self._written.max()) + tokens + 1
        self._written += (tokens - rewound) * (1 if envs is None else envs)
        self.bucket = next((size for size in self.buckets if most <= size), self.slots)
        return self.bucket

    def clear(self) -> None:
        """Empty the cache."""
        self.index.fill_(EMPTY)
        self.prefix_visible.fill_(False)
        self.next_position.zero_()
        self._written.zero_()

    def reserve(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Reserve slots for the next tokens of every environment.

        Args:
            tokens: integer [env, n]; only a PAD itself attends to its slot.

        Returns:
            Position of each token [env, n], and the keys that it attends to: bool [env, 1, n, bucket].
        """
        query = self.next_position.unsqueeze(1) + self._slot[: tokens.shape[1]]  # [env, n]
        self._at = self._slots_of(query)
        self.index.scatter_(1, self._at, query.masked_fill(tokens == PAD, EMPTY))
        self.next_position += tokens.shape[1]
        distance = query.unsqueeze(2) - self.index[:, None, : self.bucket]  # [env, n, bucket]
        itself = self._at.unsqueeze(2) == self._slot[: self.bucket]
        return query, (((distance >= 0) & (distance < self.recent)) | itself).unsqueeze(1)

    def _slots_of(self, position: Tensor) -> Tensor:
        """Slots of positions, of which the least is -1: that of a PAD before an episode."""
        return (position + 1) % self.slots

    def rewind(self, count: int, envs: Tensor | None = None) -> None:
        """Remove the last `count` tokens of some environments, bool [env], or of all.

        The next tokens take their positions.
        """
        if count:
            self.next_position -= count if envs is None else count * envs
            slots = self._slots_of(self.next_position.unsqueeze(1) + self._slot[:count])
            removed = torch.full_like(slots, EMPTY)
            if envs is not None:
                removed = torch.where(envs.unsqueeze(1), removed, self.index.gather(1, slots))
            self.index.scatter_(1, slots, removed)

    def key_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Dtype of the keys that a pass reads, whatever the dtype of its hidden states."""
        return self.k.dtype

    def layer(self, index: int) -> "CachedLayer":
        """The cache of one layer."""
        return CachedLayer(self, self.k[index], self.v[index])

    def update(self, buffer: Tensor, new: Tensor) -> Tensor:
        """Write keys or values of one layer.

        Args:
            buffer: `k[layer]` or `v[layer]`.
            new: those of this pass, [env, head, n, head_size].

        Returns:
            Those of the prefix and of the bucket, [env, head, prefix + bucket, head_size].
        """
        buffer[self._env, :, self.prefix + self._at] = new.transpose(1, 2).to(buffer.dtype)
        return buffer[:, :, : self.prefix + self.bucket]


class PrefixTokens:
    """Cache of a pass over prompts, which writes the prefix of some environments and leaves all others as they are.

    Args:
        cache: of all environments.
        envs: bool [env], those of the pass, one row each.
    """

    prefix = 0  # slots before a prompt

    def __init__(self, cache: KVCache, envs: Tensor) -> None:
        self.cache, self.envs, self.prefix_visible = cache, envs.nonzero().flatten(), cache.prefix_visible

    def reserve(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Position [prefix], and the keys that each token attends to: bool [row, 1, prefix, prefix]."""
        self.cache.prefix_visible[self.envs] = tokens != PAD
        index = torch.arange(tokens.shape[1], device=tokens.device)
        distance = index[:, None] - index
        return index, ((distance >= 0) & (tokens != PAD)[:, None, None, :]) | (distance == 0)

    def key_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Dtype of the keys that the pass reads: that of its own hidden states."""
        return dtype

    def layer(self, index: int) -> "CachedLayer":
        """The cache of one layer."""
        return CachedLayer(self, self.cache.k[index], self.cache.v[index])

    def update(self, buffer: Tensor, new: Tensor) -> Tensor:
        """Write keys or values of one layer, [row, head, prefix, head_size]; returns them, all that the pass reads."""
        buffer[self.envs, :, : self.cache.prefix] = new.to(buffer.dtype)
        return new


class CachedLayer(NamedTuple):
    """Keys and values of one layer."""

    cache: KVCache | PrefixTokens
    k: Tensor
    v: Tensor

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of a pass; returns all that it attends to."""
        return self.cache.update(self.k, k), self.cache.update(self.v, v)
