"""Plain training loop that training steps are compared with."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.dataset.batch import Batch
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Attention, Block, Gato
from gato_agent.model.rope import angles_of, rotate
from gato_agent.training.option_groups import Precision


class PlainLoop:
    """Training loop of nanoGPT over the model's blocks, with PyTorch's attention.

    Args:
        config: of the model.
        device: cpu or cuda.
        precision: of matrix products.
        batch: its targets and shape are used, with random tokens.
        causal: True for plain causal attention, False for a sliding-window mask of the context length.
        model: to be trained; by default a new one.
    """

    def __init__(
        self, config: GatoConfig, device: str, precision: Precision, batch: Batch, causal: bool,
        model: Gato | None = None,
    ) -> None:  # fmt: skip
        self.model = model or Gato(config).to(device)
        self.device, self.precision, self.batch, self.causal = device, getattr(torch, precision), batch, causal
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
        self.tokens = torch.randint(0, config.vocabulary.size, batch.tokens.shape, device=device)
        index = torch.arange(self.tokens.shape[1], device=device)
        distance = index[:, None] - index
        window = (distance >= 0) & (distance < config.context)
        self.mask = torch.zeros(window.shape, device=device).masked_fill(~window, -torch.inf)
        self.angles = angles_of(index, config.head_size, torch.float32)

    def hidden(self) -> Tensor:
        """Hidden states, [batch x length, width]."""
        x = self.model.embedding(self.tokens, self.batch.local, None, None)
        for block in self.model.blocks:
            assert isinstance(block, Block)
            x = x + self.attention(block.attention, block.attention_norm(x))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.model.norm(x).flatten(0, 1)  # type: ignore[no-any-return]

    def attention(self, layer: Attention, x: Tensor) -> Tensor:
        """Attention layer, [batch, length, width] -> [batch, length, width]."""
        b, n, d = x.shape
        q, k, v = layer.qkv(x).view(b, n, 3, layer.heads, d // layer.heads).permute(2, 0, 3, 1, 4)
        q, k = (rotate(each, *self.angles).to(v.dtype) for each in (q, k))
        mask = None if self.causal else self.mask.to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        return layer.out(y.transpose(1, 2).reshape(b, n, d))  # type: ignore[no-any-return]

    def step(self) -> None:
        """Take one step, with logits of the targets only."""

        def loss(hidden: Tensor) -> Tensor:
            return sum((self._loss_of(hidden, at) for at in range(len(self.batch.targets.offset))), torch.zeros(()))

        self._step(loss)

    def _loss_of(self, hidden: Tensor, at: int) -> Tensor:
        """Cross-entropy of one action token, from the marginal state of an action decoder if there is one."""
        targets = self.batch.targets
        total = torch.zeros((), device=self.device)
        for low, high, rows, _ in targets.ranges[at]:
            states = self.model.marginal_state(hidden[targets.position[rows] + targets.offset[at]], at)
            total = total + F.cross_entropy(self.model.logits(states, low, high), targets.ids[rows, at] - low)
        return total

    def everywhere(self) -> None:
        """Take one step, with logits of all ids at all positions."""
        wanted = torch.full((self.tokens.numel(),), -100, device=self.device)
        for at, offset in enumerate(self.batch.targets.offset):
            count = self.batch.targets.count(at)
            wanted[self.batch.targets.position[:count] + offset] = self.batch.targets.ids[:count, at]
        table = self.model.embedding.table.weight

        def loss(hidden: Tensor) -> Tensor:
            with torch.autocast(self.device, enabled=False):
                return F.cross_entropy(F.linear(hidden.float(), table), wanted)

        self._step(loss)

    def _step(self, loss: Callable[[Tensor], Tensor | int]) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32):
            total = loss(self.hidden())
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
