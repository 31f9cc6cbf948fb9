"""Key/value caches whose tensors are inputs and outputs of a graph."""

from typing import NamedTuple

import torch
from torch import Tensor

from gato_agent.model.attention import additive
from gato_agent.model.config import GatoConfig
from gato_agent.model.kv_cache import EMPTY, KVCache
from gato_agent.model.rope import Angles, angles_of, rotate
from gato_agent.tokens.space_tokenizer import PAD


class PromptKeys(NamedTuple):
    """Keys and values of prompts.

    Attributes:
        k, v: [layer, env, head, tokens, head_size].
        visible: bool [env, tokens], False for pads.
    """

    k: Tensor
    v: Tensor
    visible: Tensor


class GraphCache(KVCache):
    """`KVCache` over the tensors of a step, none of which it changes in place, with the attention over them.

    Args:
        config: of the model.
        num_envs: environments.
        margin: see `KVCache`.
        prefix: slots of the prompt.

    Attributes:
        rings: keys and values of each layer, [env, head, slot, head_size]; `load` sets them.
        prompt: of the environments; None without a prompt.
    """

    rings: list[tuple[Tensor, Tensor]]
    prompt: PromptKeys | None

    def __init__(self, config: GatoConfig, num_envs: int, margin: int, prefix: int) -> None:
        super().__init__(config, num_envs, margin, prefix)
        self._config = config
        del self.k, self.v

    def load(
        self, rings: list[tuple[Tensor, Tensor]], index: Tensor, next_position: Tensor, prompt: PromptKeys | None
    ) -> "GraphCache":
        """The same cache over other tensors."""
        cache = object.__new__(GraphCache)
        cache.__dict__.update(self.__dict__)
        cache.rings, cache.prompt = list(rings), prompt
        cache.index, cache.next_position = index.clone(), next_position.clone()
        return cache

    def begin(self, start: Tensor, position: int) -> None:
        """Empty the ring of environments, bool [env], whose next token is at `position`."""
        self.index = self.index.masked_fill(start.unsqueeze(1), EMPTY)
        self.next_position = self.next_position.masked_fill(start, position)

    def attention(self, tokens: Tensor) -> "list[GraphAttention]":
        """Attention of each layer for the next tokens [env, n] of every environment; reserves their slots."""
        position, visible = self.reserve(tokens)
        size, prompt_angles, masks = self._config.head_size, None, [additive(visible, torch.float32)]
        if self.prompt is not None:
            prompt_angles = angles_of(position.clamp(max=self._config.context - 1), size, torch.float32)
            prompt = self.prompt.visible[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
            masks.insert(0, additive(prompt, torch.float32))
        angles, mask = angles_of(position, size, torch.float32), torch.cat(masks, dim=3)
        return [GraphAttention(self, layer, angles, prompt_angles, mask) for layer in range(len(self.rings))]

    def write(self, buffer: Tensor, new: Tensor) -> Tensor:
        """A ring with the keys or values of this pass, [env, head, n, head_size], in their slots."""
        slots = self._at[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
        return buffer.scatter(2, slots, new)


class GraphAttention(NamedTuple):
    """Attention of one layer over a `GraphCache`; unlike `SdpaAttention` it does not concatenate keys.

    Attributes:
        cache: of all layers.
        layer: its number.
        angles: of queries and keys.
        prompt_angles: of queries that attend to the prompt; None without one.
        mask: [env, 1, n, prompt + slots], 0 or -inf.
    """

    cache: GraphCache
    layer: int
    angles: Angles
    prompt_angles: Angles | None
    mask: Tensor

    def attend(self, qkv: Tensor) -> Tensor:
        """See `AttentionBackend`."""
        parts = qkv.permute(2, 0, 3, 1, 4)  # [3, env, head, n, size]
        q, k = rotate(parts[0], *self.angles), rotate(parts[1], *self.angles)
        keys, values = self.cache.rings[self.layer]
        keys, values = self.cache.write(keys, k), self.cache.write(values, parts[2])
        self.cache.rings[self.layer] = keys, values
        scores, prompt = q @ keys.mT, self.cache.prompt
        if prompt is None or self.prompt_angles is None:
            y: Tensor = (scores * q.shape[3] ** -0.5 + self.mask).softmax(3) @ values
            return y.transpose(1, 2)
        prompt_scores = rotate(parts[0], *self.prompt_angles) @ prompt.k[self.layer].mT
        weights = (torch.cat((prompt_scores, scores), dim=3) * q.shape[3] ** -0.5 + self.mask).softmax(3)
        of_prompt, of_ring = weights.split((self.cache.prefix, self.cache.slots), dim=3)
        of_both: Tensor = of_prompt @ prompt.v[self.layer] + of_ring @ values
        return of_both.transpose(1, 2)


class PromptPass:
    """Cache of a pass over the prompts of all environments, which collects their keys and values."""

    prefix = 0  # slots before a prompt

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []
        self.prefix_visible: Tensor

    def reserve(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Position [n], and the keys that each token attends to: bool [env, 1, n, n]."""
        self.prefix_visible = tokens != PAD
        index = torch.arange(tokens.shape[1])
        distance = index[:, None] - index
        return index, ((distance >= 0) & self.prefix_visible[:, None, None, :]) | (distance == 0)

    def key_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Dtype of the keys that the pass reads."""
        return dtype

    def layer(self, index: int) -> "PromptPass":
        """The cache of one layer; layers follow each other."""
        return self

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Collect keys and values of the next layer; returns them, all that the pass reads."""
        self._layers.append((k, v))
        return k, v

    def keys(self) -> PromptKeys:
        """Keys and values of the pass."""
        k, v = zip(*self._layers, strict=True)
        return PromptKeys(torch.stack(k), torch.stack(v), self.prefix_visible)
