"""The transformer: pre-norm blocks of sliding-window attention and GEGLU, with tied input and output embeddings."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gato_agent.model.action_decoder import ActionDecoder
from gato_agent.model.attention import AttentionBackend, SdpaAttention
from gato_agent.model.config import GatoConfig
from gato_agent.model.cpu_attention import CpuAttention
from gato_agent.model.embedding import Embedding
from gato_agent.model.flex_attention import FlexAttention
from gato_agent.model.init import NoInitialisation, initialise
from gato_agent.model.kv_cache import KVCache, PrefixTokens
from gato_agent.model.visibility import Visibility
from gato_agent.tokens.space_tokenizer import POSITIONS


class Attention(nn.Module):
    """Causal self-attention over the last `context` tokens."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, backend: AttentionBackend) -> Tensor:
        """[batch, length, width] -> the same."""
        b, n, d = x.shape
        y = backend.attend(self.qkv(x).view(b, n, 3, self.heads, d // self.heads))
        return self.out(y.reshape(b, n, d))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020): half of the hidden units gate the other half."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.feed_forward, bias=False)
        self.out = nn.Linear(config.feed_forward // 2, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        value, gate = self.hidden(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))  # type: ignore[no-any-return]


class StochasticDepth(nn.Module):
    """Stochastic depth: skips a sub-layer for a whole sequence at random, in training only (Huang et al. 2016).

    Attributes:
        dropout: probability of dropping a single value as well; fine-tuning sets it.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.keep, self.dropout = 1 - probability, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """[batch, ...] -> the same, zero for dropped sequences and scaled for the others."""
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        if not self.training or self.keep == 1:
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1)
        return x * (torch.rand(shape, device=x.device) < self.keep) / self.keep


class Block(nn.Module):
    """Attention, then feed-forward, each on the normalised stream and added back to it."""

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config)
        self.drop = StochasticDepth(config.stochastic_depth)

    def forward(self, x: Tensor, backend: AttentionBackend) -> Tensor:
        """[batch, length, width] -> the same."""
        x = x + self.drop(self.attention(self.attention_norm(x), backend))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]


class Gato(nn.Module):
    """Transformer from tokens and patches to hidden states; `logits` or an `ActionDecoder` score ids by these.

    Attributes:
        action_decoder: None if action tokens pass through the transformer.
        compiled: True to train with compiled attention.
    """

    compiled = False

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.action_decoder = ActionDecoder(config) if config.action_decoder else None
        if not self.norm.weight.is_meta:
            initialise(self)
            if self.action_decoder is not None:
                self.action_decoder.initialise()

    @classmethod
    def skeleton(cls, config: GatoConfig) -> "Gato":
        """A model on the meta device, to count its parameters or to load a checkpoint into."""
        with torch.device("meta"), NoInitialisation():
            return cls(config)

    def forward(
        self,
        tokens: Tensor,
        patches: Tensor | None = None,
        *,
        local: Tensor | None = None,
        intervals: Tensor | None = None,
        segment: Tensor | None = None,
        index: Tensor | None = None,
        prefix_len: Tensor | None = None,
        until: Tensor | None = None,
        value_groups: Tensor | None = None,
        cache: KVCache | PrefixTokens | None = None,
    ) -> Tensor:
        """Run the transformer over whole sequences, or over the next tokens of cached ones.

        Args:
            tokens: integer [batch, length]; ids, PAD (-1: never attended to), PATCH (-2: the next patch) or
                VALUES (-3: the next value group).
            patches: uint8 [k, 16, 16, 4], one per PATCH, row-major.
            local: integer [batch, length], position within the observation; -1 (everywhere by default) for none.
            intervals: integer [k, 2, 2], place of each patch in its image; by default each is a whole image.
            segment: integer [batch, length], episode of each token; tokens attend to their own episode only.
            index: integer [batch, length], position in its episode; by default each row is one from its beginning.
            prefix_len: integer [batch, length or 1], tokens of the prompt that its episode begins with; by default 0.
            until: integer [batch, length], place of the last token that may attend to it; by default the last one.
            value_groups: integer [p, values_per_token], one per VALUES, row-major.
            cache: holds the tokens before; each row is then one episode, and the arguments from `segment` to `until`
                are None.

        Returns:
            Hidden states [batch, length, width].
        """
        if patches is not None and intervals is None:
            whole = torch.tensor([[0, POSITIONS]] * 2, device=tokens.device)
            intervals = whole.expand(len(patches), 2, 2)
        x = self.embedding(tokens, local, patches, intervals, value_groups)
        backends: Iterable[AttentionBackend]
        if cache is None:
            visibility = Visibility.of(
                tokens, self.config.context, segment=segment, index=index, prefix_len=prefix_len, until=until
            )
            backend = self._backend(x.device).prepare(self.config, visibility, x.dtype)
            backends = [backend] * len(self.blocks)
        else:
            backends = SdpaAttention.prepare_cached(self.config, cache, tokens, x.dtype)
        for block, backend in zip(self.blocks, backends, strict=True):
            x = block(x, backend)
        return self.norm(x)  # type: ignore[no-any-return]

    def _backend(self, device: torch.device) -> type[AttentionBackend]:
        """Attention of whole sequences on a device."""
        if not (self.compiled and self.training):
            return SdpaAttention
        return CpuAttention if device.type == "cpu" else FlexAttention

    def logits(self, states: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """Scores of the ids [low, high), all of them by default: [..., width of a state] -> [..., high - low].

        States are hidden states, or with an action decoder its states, which score no text.
        """
        rows = self.scored(low, high)
        with torch.autocast(states.device.type, enabled=False):  # in bfloat16 near scores would be equal
            return F.linear(states.to(rows.dtype), rows)

    def scored(self, low: int, high: int | None) -> Tensor:
        """The rows of the table that score the ids [low, high)."""
        if self.action_decoder is None:
            return self.embedding.table.weight[low:high]
        return self.action_decoder.rows(low, high)

    def marginal_state(self, hidden: Tensor, at: int) -> Tensor:
        """State that scores action token `at` independently of those before it, of hidden states [batch, width]."""
        return hidden if self.action_decoder is None else self.action_decoder.marginal_state(hidden, at)

    def corrections(self) -> list[nn.Parameter]:
        """Parameters that only the conditional loss of an action decoder trains."""
        return [] if self.action_decoder is None else list(self.action_decoder.correction.parameters())

    def used(self, tokens: int, patches: bool, value_groups: bool) -> dict[nn.Module, bool]:
        """Modules that some batches leave out, each True if such a batch uses it.

        Args:
            tokens: largest number of tokens of an action in the batch.
            patches: True if the batch has image patches.
            value_groups: True if the batch has value groups.
        """
        used: dict[nn.Module, bool] = {self.embedding.patch: patches}
        if self.config.values_per_token > 1:
            used[self.embedding.value_group] = value_groups
        return used if self.action_decoder is None else used | self.action_decoder.used(tokens)
