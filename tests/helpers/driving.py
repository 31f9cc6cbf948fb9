"""Decoders driven with random observations, and the reference: one uncached forward over each whole episode."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from gato_agent.inference.decoders.decoder import GREEDY, Decoder, Legal, Prefill, StepOptions
from gato_agent.inference.decoders.sampling import Sampler
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.tokens.space_tokenizer import BINS, PAD, VALUES
from gato_agent.tokens.timestep_layout import ALWAYS, TimestepLayout

OBSERVATION = 4  # tokens of an observation
MANY = 16  # environments whose observations are drawn together


def legal_for(config: GatoConfig, actions: int = 2) -> Legal:
    """Ids of as many action tokens, of choices and of bins in turn."""
    vocabulary = config.vocabulary
    kinds = (vocabulary.discrete, vocabulary.discrete + 9), (vocabulary.continuous, vocabulary.continuous + BINS)
    return [kinds[at % 2] for at in range(actions)]


def layout_of(config: GatoConfig, actions: int) -> TimestepLayout:
    """Layout of timesteps whose last observation token is a group of values where values share tokens."""
    return TimestepLayout(
        OBSERVATION, actions, config.action_decoder, config.past_actions, int(config.values_per_token > 1)
    )


class Episode(NamedTuple):
    """Inputs and results of a decoder in one episode of an environment.

    Attributes:
        prompt: int64 [tokens].
        observed: one int64 [OBSERVATION] a step.
        value_groups: one int16 [values_per_token] a step.
        actions: one int64 [A] a step.
        logits: of the action tokens of each step.
    """

    prompt: Tensor
    observed: list[Tensor]
    value_groups: list[Tensor]
    actions: list[Tensor]
    logits: list[list[Tensor]]


class Driver:
    """Driver of a decoder: passes observations and episode starts, and keeps inputs and results by environment."""

    def __init__(
        self, model: Gato, num_envs: int, kind: Callable[[Gato, Legal], Decoder], prompt: int = 0,
        legal: Legal | None = None,
    ) -> None:  # fmt: skip
        self.config, self.num_envs, self.prompt = model.config, num_envs, prompt
        self.legal = legal or legal_for(model.config)
        self.layout = layout = layout_of(model.config, len(self.legal))
        self.decoder = kind(model, self.legal)
        self.decoder.reset(num_envs, max(layout.carried + layout.n_prefill, layout.rewound), prompt)
        self.last = torch.full((num_envs, layout.carried), PAD)
        local = [-1] * layout.carried + layout.local[: layout.n_prefill].tolist()
        self.local = torch.tensor([local]).repeat(num_envs, 1)
        self.episodes = [self._begin(torch.zeros(0, dtype=torch.int64)) for _ in range(num_envs)]
        self.count = 0

    @staticmethod
    def _begin(prompt: Tensor) -> Episode:
        return Episode(prompt, [], [], [], [])

    def step(self, observed: Tensor, value_groups: Tensor, start: Tensor, options: StepOptions = GREEDY) -> Tensor:
        """One control step.

        Args:
            observed: int64 [env, OBSERVATION].
            value_groups: int16 [env, values_per_token].
            start: bool [env], environments in which an episode begins.
            options: of the step.
        """
        self.count += 1
        if start.any():
            self.start(start, random_prompts(self.config, int(start.sum()), self.prompt, seed=self.count))
        separators = torch.full((self.num_envs, self.layout.n_separators), self.config.vocabulary.separator)
        tokens = torch.cat((self.last, observed, separators), dim=1)
        read = value_groups if self.layout.value_groups else None
        action = self.decoder.step(Prefill(tokens, self.local, None, None, read), options)
        self.last = action[:, action.shape[1] - self.layout.carried :]
        for env, episode in enumerate(self.episodes):
            episode.observed.append(observed[env])
            episode.value_groups.append(value_groups[env])
            episode.actions.append(action[env])
            episode.logits.append([logits[env].to("cpu", copy=True) for logits in self.decoder.logits])
        return action

    def start(self, start: Tensor, prompts: Tensor) -> None:
        """Begin episodes in some environments, bool [env], with prompts int64 [episodes, tokens]."""
        if self.prompt:
            self.decoder.prefill_prefix(start, Prefill(prompts, torch.full_like(prompts, -1), None, None))
        for env, prompt in zip(start.nonzero().flatten().tolist(), prompts, strict=True):
            self.episodes[env] = self._begin(prompt)
        self.decoder.reset_envs(start, self.prompt - self.layout.carried)
        self.last = self.last.masked_fill(start.unsqueeze(1), PAD)


def random_prompts(config: GatoConfig, count: int, length: int, seed: int) -> Tensor:
    """Prompts [count, length], most of them padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, config.vocabulary.size, (count, length), generator=generator)
    short = torch.randint(1, length + 2, (count, 1), generator=generator)
    return tokens.masked_fill(torch.arange(length) >= short, PAD)


def observe(config: GatoConfig, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random observations [*shape, OBSERVATION] and value groups [*shape, values_per_token]; half have short text."""
    tokens = torch.randint(0, config.vocabulary.size, (*shape, OBSERVATION), generator=generator)
    tokens[torch.rand(shape, generator=generator) < 0.5, 1:3] = PAD
    if config.values_per_token > 1:
        tokens[..., -1] = VALUES
    value_groups = torch.randint(0, 2 * BINS, (*shape, config.values_per_token), generator=generator)
    return tokens, value_groups.short()


class Sequence(NamedTuple):
    """A whole episode with its prompt as one row of tokens, and the arguments of `Gato.forward`.

    Attributes:
        tokens: int64 [1, length].
        arguments: of `Gato.forward`.
        first: int64 [step], place of the token that predicts each step's first action token.
    """

    tokens: Tensor
    arguments: dict[str, Tensor | None]
    first: Tensor


def sequence_of(config: GatoConfig, episode: Episode) -> Sequence:
    """The token stream of an episode in training."""
    layout, prompt = layout_of(config, len(episode.actions[0])), len(episode.prompt)
    steps = len(episode.observed)
    separators = torch.full((layout.n_separators,), config.vocabulary.separator)
    rows = [
        torch.cat((observed, separators, action))[: layout.length]
        for observed, action in zip(episode.observed, episode.actions, strict=True)
    ]
    step = np.arange(steps)[:, None]
    index = [*range(prompt), *(prompt + step * layout.span + np.arange(layout.length)).ravel().tolist()]
    ends = np.minimum(prompt + step * layout.length + layout.until, ALWAYS).ravel().tolist()
    arguments = {
        "local": torch.tensor([[-1] * prompt + np.tile(layout.local, steps).tolist()]),
        "index": torch.tensor([index]),
        "until": torch.tensor([[ALWAYS] * prompt + ends]),
        "prefix_len": torch.tensor([[prompt]]) if prompt else None,
        "value_groups": torch.stack(episode.value_groups) if layout.value_groups else None,
    }
    first = prompt + layout.first + layout.length * torch.arange(steps)
    return Sequence(torch.cat((episode.prompt, *rows))[None], arguments, first)


@torch.inference_mode()
def uncached(model: Gato, episode: Episode, legal: Legal) -> list[Tensor]:
    """Logits [step, ids] of each action token, from one forward over a whole episode with its prompt."""
    layout, sequence = layout_of(model.config, len(legal)), sequence_of(model.config, episode)
    hidden = model(sequence.tokens, **sequence.arguments)[0]
    states = [hidden[sequence.first + layout.predictor(at) - layout.first] for at in range(len(legal))]
    return list(teacher_forced(model, states, torch.stack(episode.actions), legal))


def teacher_forced(model: Gato, states: list[Tensor], actions: Tensor, legal: Legal) -> Iterator[Tensor]:
    """Logits [n, ids] of each action token, given hidden states [n, width] of its predictor and the tokens before.

    Args:
        model: with an action decoder or without.
        states: by action token.
        actions: int64 [n, A].
        legal: half-open id range of each action token.
    """
    decoder = model.action_decoder
    chain = decoder.begin(states[0]) if decoder else None
    for at, (state, (low, high)) in enumerate(zip(states, legal, strict=True)):
        if decoder is None or chain is None:
            yield model.logits(state, low, high)
            continue
        yield model.logits(decoder.state(decoder.marginal_state(state, at), state, chain, at), low, high)
        if at + 1 < len(legal):
            chain = decoder.extend(chain, actions[:, at], at)


def error(model: Gato, episode: Episode, legal: Legal) -> float:
    """Largest difference to one uncached forward, over max(1, largest absolute logit)."""
    worst = 0.0
    for at, expected in enumerate(uncached(model, episode, legal)):
        actual = torch.stack([logits[at] for logits in episode.logits])
        worst = max(worst, (actual - expected).abs().max().item() / max(1.0, expected.abs().max().item()))
    return worst


def worst_error(reference: Gato, driver: Driver, steps: int) -> tuple[float, int]:
    """Play while environments restart at random and one never does; the largest error, and the longest episode.

    The length of an episode is counted in positions, its prompt included.
    """
    generator = torch.Generator().manual_seed(1)
    start = torch.ones(driver.num_envs, dtype=torch.bool)
    worst, longest = 0.0, 0
    for t in range(steps):
        driver.step(*observe(driver.config, (driver.num_envs,), generator), start)
        start = torch.rand(driver.num_envs, generator=generator) < 0.004
        start[0] = False
        if t == steps - 1:
            start[:] = True
        for env in start.nonzero().flatten().tolist():
            episode = driver.episodes[env]
            longest = max(longest, driver.prompt + len(episode.observed) * driver.layout.span)
            worst = max(worst, error(reference, episode, driver.legal))
    return worst, longest


class Played(NamedTuple):
    """Actions int64 [step, env, A], and logits [env, ids] of each action token of each step, in order."""

    actions: Tensor
    logits: list[Tensor]

    def first(self, num_envs: int) -> Self:
        """The same of the first environments."""
        return self._replace(actions=self.actions[:, :num_envs], logits=[part[:num_envs] for part in self.logits])

    def equals(self, other: "Played") -> bool:
        """True if both are the same bit by bit."""
        pairs = zip((self.actions, *self.logits), (other.actions, *other.logits), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    def error(self, other: "Played") -> float:
        """Largest difference of logits, over max(1, the largest of the other's)."""
        scale = max(1.0, *(part.abs().max().item() for part in other.logits))
        return max((a - b).abs().max().item() for a, b in zip(self.logits, other.logits, strict=True)) / scale


def play(
    model: Gato, kind: Callable[[Gato, Legal], Decoder] | Decoder, num_envs: int, steps: int,
    options: Callable[[int], StepOptions] = lambda step: GREEDY, legal: Legal | None = None,
) -> Played:  # fmt: skip
    """A run in which the first environment begins a second episode midway.

    The first environments get the same observations however many others there are.
    """
    driver = Driver(model, num_envs, kind if callable(kind) else lambda *_: kind, legal=legal)
    generator = torch.Generator().manual_seed(1)
    actions, logits = [], []
    for t in range(steps):
        observed, value_groups = (part[:num_envs] for part in observe(model.config, (MANY,), generator))
        start = torch.arange(num_envs) < (num_envs if t == 0 else t == steps // 2)
        actions.append(driver.step(observed, value_groups, start, options(t)))
        logits += [part.clone() for part in driver.decoder.logits]
    return Played(torch.stack(actions), logits)


def sampled(num_envs: int, actions: int, temperature: float = 0.7) -> Callable[[int], StepOptions]:
    """Options of steps that sample, each environment with its own random stream."""
    sampler = Sampler(temperature, [torch.Generator().manual_seed(env) for env in range(num_envs)])
    options = [StepOptions.of(sampler, actions) for _ in range(200)]
    return options.__getitem__


def forced(played: Played) -> Callable[[int], StepOptions]:
    """Options of steps whose actions are those of another run."""
    return lambda step: StepOptions(forced=played.actions[step])
