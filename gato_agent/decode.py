"""One control step: read the observation, then write the action token by token."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from gato_agent.cache import Cache, Pinning
from gato_agent.model import Gato

Legal = Sequence[tuple[int, int]]  # half-open id range of each action token
Precision = Literal["float32", "bfloat16", "int8"]  # of weights; the cache is float32 for the first, else bfloat16


class Prefill(NamedTuple):
    """What enters the model before the first action token: last action token, observation, separator; or a prompt.

    With `parallel_actions` it is a timestep as `SpaceTokenizer` has it.
    """

    tokens: Tensor  # int64 [lanes, 1 + n_obs + 1], or [lanes, tokens of the prompt]
    local: Tensor  # int64, the same shape
    patches: Tensor | None  # uint8 [lanes * k, 16, 16, 4]
    intervals: Tensor | None  # integer [lanes * k, 2, 2]
    packs: Tensor | None = None  # integer [lanes * p, pack]

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        there = [part if part is None else part.to(device) for part in self]
        return type(self)(*there)  # type: ignore[arg-type]  # None where it was


class Choose:
    """The likeliest id, or of ids in an order the median; or one sampled from softmax(logits / temperature).

    Many values near each other are as likely, and which of them is likeliest is chance: the median errs less.

    Args:
        temperature: 0 for the likeliest or the median.
        generators: one random stream a lane, so that lanes do not disturb each other.
    """

    def __init__(self, temperature: float = 0.0, generators: Sequence[torch.Generator] = ()) -> None:
        self.temperature, self._generators = temperature, generators

    def noise(self, count: int) -> Tensor | None:
        """Gumbel noise float64 [lanes, count], whose addition samples (Gumbel 1954); None at temperature 0."""
        if not self.temperature:
            return None
        draws = torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in self._generators])
        return -torch.log(-torch.log(draws.clamp(min=1e-300)))

    def __call__(self, logits: Tensor, ordered: bool = False) -> Tensor:
        """Logits [lanes, ids] -> index of the chosen id [lanes]."""
        noise = self.noise(logits.shape[1])
        if noise is not None:
            return (logits.double() / self.temperature + noise.to(logits.device)).argmax(-1)
        return median(logits) if ordered else logits.argmax(-1)


def median(logits: Tensor) -> Tensor:
    """Index of the first id with half of the probability up to it: float [lanes, ids] -> int64 [lanes]."""
    return (logits.double().softmax(-1).cumsum(-1) < 0.5).sum(-1).clamp(max=logits.shape[1] - 1)


class Told(Choose):
    """Chooses what it is told, for one step.

    Args:
        choices: int64 [lanes, A], index of the id for each action token.
    """

    def __init__(self, choices: Tensor) -> None:
        super().__init__(temperature=1.0)
        self._choices = iter(choices.unbind(1))

    def noise(self, count: int) -> Tensor:
        """Noise [lanes, count] that outweighs all logits."""
        chosen = next(self._choices).unsqueeze(1)
        return torch.zeros(len(chosen), count, dtype=torch.float64).scatter_(1, chosen, torch.inf)


class Decoder(Protocol):
    """Decodes actions for a number of lanes, each with a memory of its own episode.

    What it takes and gives lies on the CPU, wherever the model is.

    Attributes:
        logits: of each action token in the latest step, float [lanes, ids legal for it].
    """

    logits: list[Tensor]

    def reset(self, lanes: int, longest_pass: int, prompt: int = 0) -> None:
        """Forget everything and prepare for `lanes` episodes and prefills of at most `longest_pass` tokens.

        Each episode begins with a prompt of `prompt` tokens, which are to be pinned.
        """

    def pin(self, lanes: Tensor, prompts: Prefill) -> None:
        """Give some lanes, bool [lane], their prompts, a row each: they stay until others are given."""

    def restart(self, lanes: Tensor, age: int = 0) -> None:
        """Forget the episodes of some lanes, bool [lane], but not their prompts; their next token has index `age`."""

    def step(self, prefill: Prefill, choose: Choose) -> Tensor:
        """Decode one action per lane: int64 [lanes, A], every token among the ids that are legal for it."""


class TorchDecoder:
    """Decodes with PyTorch's operators and `Cache`, on any device.

    Args:
        model: in evaluation mode.
        legal: half-open id range of each action token.
    """

    def __init__(self, model: Gato, legal: Legal) -> None:
        self.model, self.legal, self.device = model, legal, model.norm.weight.device
        self.logits: list[Tensor] = []

    def reset(self, lanes: int, longest_pass: int, prompt: int = 0) -> None:
        """See `Decoder`."""
        dtype = self.model.norm.weight.dtype
        self.cache = Cache(self.model.config, lanes, longest_pass, prompt, device=self.device, dtype=dtype)

    @torch.inference_mode()
    def pin(self, lanes: Tensor, prompts: Prefill) -> None:
        """See `Decoder`."""
        tokens, local, patches, intervals, packs = prompts.to(self.device)
        pinning = Pinning(self.cache, lanes.to(self.device))
        self.model(tokens, patches, local=local, intervals=intervals, packs=packs, cache=pinning)

    def restart(self, lanes: Tensor, age: int = 0) -> None:
        """See `Decoder`."""
        self.cache.restart(lanes.to(self.device), age)

    @torch.inference_mode()
    def step(self, prefill: Prefill, choose: Choose) -> Tensor:
        """See `Decoder`."""
        return self.decode(prefill.to(self.device), choose).cpu()

    def decode(self, prefill: Prefill, choose: Choose) -> Tensor:
        """A step, from and to the device of the model.

        The separator's hidden state gives the first token and each token gives the next, so an action of A tokens
        takes A passes; the last one is not fed back here but enters with the next observation. With
        `parallel_actions` the last tokens' hidden states give them all, in one pass.
        """
        tokens, local, patches, intervals, packs = prefill
        hidden = self.model(tokens, patches, local=local, intervals=intervals, packs=packs, cache=self.cache)
        each, action = self.model.config.parallel_actions, list[Tensor]()
        last = -len(self.legal) // each if each else -1  # tokens that predict, counted from the end
        self.logits = []
        for at, (low, high) in enumerate(self.legal):
            if action and not each:
                hidden = self.model(action[-1].unsqueeze(1), cache=self.cache)
            token, place = divmod(at, each) if each else (0, 0)
            state = self.model.predicting(hidden[:, last + token], place)
            self.logits.append(self.model.logits(state, low, high))
            action.append(low + choose(self.logits[-1], self.model.config.vocabulary.ordered(low)))
        return torch.stack(action, dim=1)
