"""Control steps: the observation enters the model, then the action is decoded token by token, each fed back."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from gato_agent.inference.decoders.sampling import MaskBlocks, Sampler, choose
from gato_agent.model.gato import Gato
from gato_agent.model.kv_cache import KVCache, PrefixTokens
from gato_agent.tokens.timestep_layout import ACTION_GROUP

Legal = Sequence[tuple[int, int]]  # half-open id range of each action token
Precision = Literal["float32", "bfloat16", "int8"]  # of weights; the cache is float32 for the first, else bfloat16


class Prefill(NamedTuple):
    """Tokens that enter the model before the first action token of each environment, or those of a prompt.

    They are an observation and its separators in the order of `TimestepLayout`, after the last action token if past
    actions stay visible.
    """

    tokens: Tensor  # int64 [env, layout.carried + layout.n_prefill], or [env, tokens of the prompt]
    local: Tensor  # int64, the same shape
    patches: Tensor | None  # uint8 [env * k, 16, 16, 4]
    intervals: Tensor | None  # integer [env * k, 2, 2]
    value_groups: Tensor | None = None  # integer [env * p, values_per_token]

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        moved = [part if part is None else part.to(device) for part in self]
        return type(self)(*moved)  # type: ignore[arg-type]  # None stays None


class StepOptions(NamedTuple):
    """Options of one control step, besides the observation.

    Attributes:
        uniforms: float64 [env, A], random numbers in [0, 1) that sampling uses; None for greedy.
        temperature: float64 [], of sampling.
        forced: int64 [env, A], ids to choose whatever the logits; None for a free choice.
        allowed: bool [env, width], True for ids that an action mask admits (`MaskBlocks`); None for all.
        marginal: True to score each token independently of those before it, where there is an action decoder.
    """

    uniforms: Tensor | None = None
    temperature: Tensor | None = None
    forced: Tensor | None = None
    allowed: Tensor | None = None
    marginal: bool = False

    @classmethod
    def of(cls, sampler: Sampler, count: int, **others: "Tensor | bool | None") -> Self:
        """Options of a step that samples, or is greedy, for `count` action tokens."""
        if not (sampler.temperature or others):
            return GREEDY  # type: ignore[return-value]
        uniforms = sampler.uniforms(count)
        temperature = None if uniforms is None else torch.tensor(sampler.temperature, dtype=torch.float64)
        return cls(uniforms, temperature, **others)  # type: ignore[arg-type]


GREEDY = StepOptions()


class Decoder(Protocol):
    """Decoder of actions for several environments, each with the memory of its own episode.

    Inputs and results are on the CPU, on whatever device the model is.

    Attributes:
        logits: of each action token in the latest step, float [env, ids legal for it].
    """

    logits: list[Tensor]

    def reset(self, num_envs: int, longest: int, prefix: int = 0) -> None:
        """Forget everything and prepare for `num_envs` episodes.

        Args:
            num_envs: environments.
            longest: tokens that a step writes, see `TimestepLayout.written`.
            prefix: tokens of the prompt that each episode begins with.
        """

    def prefill_prefix(self, envs: Tensor, prompts: Prefill) -> None:
        """Cache the prompts of some environments, bool [env], a row each; they stay until the next prompts."""

    def reset_envs(self, envs: Tensor, position: int = 0) -> None:
        """Forget the episodes of some environments, bool [env], but not their prompts.

        `position` is that of their next token.
        """

    def step(self, prefill: Prefill, options: StepOptions = GREEDY, envs: Tensor | None = None) -> Tensor:
        """Decode one action per environment: int64 [env, A], every token among the ids that are legal for it.

        Args:
            prefill: observations, a row each.
            options: of the step.
            envs: int64 [env], environments of the rows, each once and in rising order; all others stay as they are.
                None for all.
        """

    def rewind(self, count: int) -> None:
        """Remove the last tokens of every environment from the cache."""


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
        """A step of all environments, in those beside `envs` with the inputs of the first row, and then rewound.

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
