"""Control steps: the observation enters the model, then the action is decoded token by token, each fed back."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from gato_agent.inference.decoders.sampling import Sampler

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
