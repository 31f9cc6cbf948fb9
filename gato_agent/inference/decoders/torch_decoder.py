"""Decoder of actions by PyTorch's operators, on any device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gato_agent.inference.decoders.decoder import GREEDY, Legal, Prefill, StepOptions
from gato_agent.inference.decoders.sampling import MaskBlocks, choose
from gato_agent.model.gato import Gato
from gato_agent.model.kv_cache import KVCache, PrefixTokens
from gato_agent.tokens.timestep_layout import ACTION_GROUP


class TorchDecoder:
    """Decoder by PyTorch's operators, on any device.

    Args:
        model: in evaluation mode.
        legal: half-open id range of each action token.
        digits: index of each action token among the digits of its number; by default none is a digit.
    """

    def __init__(self, model: Gato, legal: Legal, digits: Sequence[int] = ()) -> None:
        self.model, self.legal, self.device = model, list(legal), model.norm.weight.device
        self.logits: list[Tensor] = []
        self._masks = MaskBlocks([high - low for low, high in legal], digits)
        layout = model.config.layout(0, len(self.legal))
        self.passes, self.rewound = layout.passes, layout.rewound

    def reset(self, num_envs: int, longest: int, prefix: int = 0) -> None:
        """See `Decoder`."""
        dtype = self.model.norm.weight.dtype
        self.cache = KVCache(self.model.config, num_envs, longest - 1, prefix, device=self.device, dtype=dtype)

    @torch.inference_mode()
    def prefill_prefix(self, envs: Tensor, prompts: Prefill) -> None:
        """See `Decoder`."""
        tokens, local, patches, intervals, value_groups = prompts.to(self.device)
        prefix = PrefixTokens(self.cache, envs.to(self.device))
        self.model(tokens, patches, local=local, intervals=intervals, value_groups=value_groups, cache=prefix)

    @torch.inference_mode()
    def reset_envs(self, envs: Tensor, position: int = 0) -> None:
        """See `Decoder`."""
        self.cache.plan_reset(envs, position)
        self.cache.reset_envs(envs.to(self.device), position)

    @torch.inference_mode()
    def step(self, prefill: Prefill, options: StepOptions = GREEDY, envs: Tensor | None = None) -> Tensor:
        """See `Decoder`."""
        if envs is not None:
            return self._step_some(prefill, options, envs)
        self.cache.plan(prefill.tokens.shape[1] + self.passes - 1, self.rewound)
        moved = [part.to(self.device) if isinstance(part, Tensor) else part for part in options]
        return self.decode(prefill.to(self.device), StepOptions(*moved)).cpu()  # type: ignore[arg-type]

    def _step_some(self, prefill: Prefill, options: StepOptions, envs: Tensor) -> Tensor:
        """A step of some environments: all others take it too, with the inputs of the first row, and are rewound.

        Shapes are the same for any number of environments, as captured steps need.
        """
        num_envs, rows = len(self.cache.next_position), len(envs)
        if not rows or envs[0] < 0 or envs[-1] >= num_envs or bool((envs.diff() <= 0).any()):
            raise ValueError("envs must be environments of the cache, each once and in rising order")
        source = torch.zeros(num_envs, dtype=torch.int64)
        source[envs] = torch.arange(rows)
        spread = [_spread(part, rows, source) for part in (*prefill, *options)]
        prefill, options = Prefill(*spread[: len(prefill)]), StepOptions(*spread[len(prefill) :])
        chosen = self.step(prefill, options)[envs]
        others = torch.ones(num_envs, dtype=torch.bool)
        others[envs] = False
        self.rewind(prefill.tokens.shape[1] + self.passes - 1 - self.rewound, others)
        self.logits = [part[envs.to(part.device)] for part in self.logits]
        return chosen

    @torch.inference_mode()
    def rewind(self, count: int, envs: Tensor | None = None) -> None:
        """See `Decoder`; with `envs`, bool [env], in these environments alone."""
        self.cache.plan(0, count, envs)
        self.cache.rewind(count, None if envs is None else envs.to(self.device))

    def decode(self, prefill: Prefill, options: StepOptions) -> Tensor:
        """A step whose inputs and result are on the model's device."""
        tokens, local, patches, intervals, value_groups = prefill
        hidden = self.model(
            tokens, patches, local=local, intervals=intervals, value_groups=value_groups, cache=self.cache
        )
        return self.decode_action(hidden, options)

    def decode_action(self, hidden: Tensor, options: StepOptions) -> Tensor:
        """Decode one action per environment from the hidden states of a step, [env, tokens, width]: int64 [env, A]."""
        self.logits = []
        chosen = (
            self._decode_chain(hidden, options) if self.model.action_decoder else self._decode_stream(hidden, options)
        )
        self.cache.rewind(self.rewound)
        return torch.stack(chosen, dim=1)

    def _decode_stream(self, hidden: Tensor, options: StepOptions) -> list[Tensor]:
        """Action tokens through the transformer: the separator's state gives the first, each gives the next.

        The last one is not fed back: it enters with the next observation where past actions stay visible, else no
        token attends to it.
        """
        chosen: list[Tensor] = []
        for low, high in self.legal:
            if chosen:
                hidden = self.model(chosen[-1].unsqueeze(1), cache=self.cache)
            self.logits.append(self.model.logits(hidden[:, -1], low, high))
            chosen.append(self._choose(self.logits[-1], chosen, options))
        return chosen

    def _decode_chain(self, hidden: Tensor, options: StepOptions) -> list[Tensor]:
        """Action tokens by the action decoder, each from a hidden state and the tokens chosen before it."""
        decoder, chosen = self.model.action_decoder, list[Tensor]()
        assert decoder is not None
        first = (len(self.legal) - 1) // ACTION_GROUP + 1  # of the tokens that predict, counted from the end
        chain = decoder.begin(hidden[:, -1])
        for at, (low, high) in enumerate(self.legal):
            state = hidden[:, at // ACTION_GROUP - first]
            score = decoder.marginal_state(state, at)
            if not options.marginal:
                score = decoder.state(score, state, chain, at)
            self.logits.append(self.model.logits(score, low, high))
            chosen.append(self._choose(self.logits[-1], chosen, options))
            if at + 1 < len(self.legal):
                chain = decoder.extend(chain, chosen[-1], at)
        return chosen

    def _choose(self, logits: Tensor, chosen: list[Tensor], options: StepOptions) -> Tensor:
        """Id of the action token after those that were chosen: int64 [env]."""
        at = len(chosen)
        if options.forced is not None:
            return options.forced[:, at]
        low = self.legal[at][0]
        return low + choose(
            logits,
            ordered=self.model.config.vocabulary.ordered(low),
            uniform=None if options.uniforms is None else options.uniforms[:, at],
            temperature=1.0 if options.temperature is None else options.temperature,
            allowed=None if options.allowed is None else self._allowed(options.allowed, chosen),
        )

    def _allowed(self, allowed: Tensor, chosen: list[Tensor]) -> Tensor:
        """Ids that a mask allows for the next action token: bool [env, ids]."""
        before = [ids - low for ids, (low, _) in zip(chosen, self.legal, strict=False)]
        return self._masks.row(allowed, before, len(chosen))


def _spread(part: Any, rows: int, source: Tensor) -> Any:
    """An input of a step for all environments: of a tensor [rows * k, ...] the rows that `source` names."""
    if not isinstance(part, Tensor) or not part.ndim:
        return part
    return part.reshape(rows, -1, *part.shape[1:])[source].flatten(0, 1)
