"""Cached stepping gives the logits of one uncached forward over the whole episode, with PyTorch and in C++."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gato_agent.cache import Cache
from gato_agent.config import GatoConfig
from gato_agent.decode import Choose, Decoder, Legal, Prefill, TorchDecoder
from gato_agent.engine import Engine
from gato_agent.model import Gato
from gato_agent.spaces import PAD
from tests.gato_agent.harsh import harsh
from tests.gato_agent.shapes import NANO

DECODERS = TorchDecoder, Engine

OBSERVATION, ACTION = 4, 2
STEP = OBSERVATION + 1 + ACTION


def legal_for(config: GatoConfig) -> Legal:
    vocabulary = config.vocabulary
    return [(vocabulary.discrete, vocabulary.discrete + 9), (vocabulary.continuous, vocabulary.continuous + 1024)]


class Lanes:
    """Drives a decoder with observations and restarts, and keeps what it saw and answered."""

    def __init__(self, model: Gato, lanes: int, kind: Callable[[Gato, Legal], Decoder], prompt: int = 0) -> None:
        self.config, self.lanes, self.prompt = model.config, lanes, prompt
        self.decoder = kind(model, legal_for(model.config))
        self.decoder.reset(lanes, OBSERVATION + 2, prompt)
        self.last = torch.full((lanes, 1), PAD)
        self.local = torch.tensor([[-1, *range(OBSERVATION), -1]]).expand(lanes, -1)
        self.logits: list[list[Tensor]] = [[] for _ in range(lanes)]
        self.tokens: list[list[Tensor]] = [[] for _ in range(lanes)]

    def step(self, observation: Tensor, start: Tensor) -> Tensor:
        """One control step; tokens and logits of each lane are appended to its current episode."""
        if start.any() and self.prompt:
            prompts = random_prompts(self.config, int(start.sum()), self.prompt, seed=len(self.tokens[0]))
            self.decoder.pin(start, Prefill(prompts, torch.full_like(prompts, -1), None, None))
            for lane, tokens in zip(start.nonzero().flatten().tolist(), prompts, strict=True):
                self.tokens[lane].append(tokens)
        self.decoder.restart(start, age=self.prompt - 1)
        self.last = self.last.masked_fill(start.unsqueeze(1), PAD)
        separator = torch.full((self.lanes, 1), self.config.vocabulary.separator)
        tokens = torch.cat((self.last, observation, separator), dim=1)
        action = self.decoder.step(Prefill(tokens, self.local, None, None), Choose())
        self.last = action[:, -1:]
        for lane in range(self.lanes):
            self.tokens[lane].append(torch.cat((observation[lane], separator[lane], action[lane])))
            self.logits[lane] += [logits[lane].to("cpu", copy=True) for logits in self.decoder.logits]
        return action

    def forget(self, lane: int) -> tuple[Tensor, list[Tensor]]:
        """Tokens and logits of the lane's episode so far; a new one begins."""
        episode = torch.cat(self.tokens[lane]), self.logits[lane]
        self.tokens[lane], self.logits[lane] = [], []
        return episode


def random_prompts(config: GatoConfig, count: int, length: int, seed: int) -> Tensor:
    """Prompts [count, length], most of them padded."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, config.vocabulary.size, (count, length), generator=generator)
    short = torch.randint(1, length + 2, (count, 1), generator=generator)
    return tokens.masked_fill(torch.arange(length) >= short, PAD)


def observe(config: GatoConfig, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random observations [*shape, OBSERVATION]; in half of them text was shorter than its place."""
    tokens = torch.randint(0, config.vocabulary.discrete, (*shape, OBSERVATION), generator=generator)
    tokens[torch.rand(shape, generator=generator) < 0.5, 1:3] = PAD
    return tokens


@torch.inference_mode()
def error(model: Gato, tokens: Tensor, cached: list[Tensor], prompt: int = 0) -> float:
    """Largest difference to one uncached forward, over max(1, largest absolute logit)."""
    vocabulary = model.config.vocabulary
    local = torch.tensor([*range(OBSERVATION), -1, -1, -1]).repeat((len(tokens) - prompt) // STEP)
    local = torch.cat((torch.full((prompt,), -1), local))
    pinned = torch.tensor([[prompt]]) if prompt else None
    hidden = model(tokens.unsqueeze(0), local=local.unsqueeze(0), pinned=pinned)[0, prompt:]
    first = model.logits(hidden[OBSERVATION::STEP], vocabulary.discrete, vocabulary.discrete + 9)
    second = model.logits(hidden[OBSERVATION + 1 :: STEP], vocabulary.continuous, vocabulary.continuous + 1024)
    worst = 0.0
    for uncached, steps in ((first, cached[::2]), (second, cached[1::2])):
        scale = max(1.0, uncached.abs().max().item())
        worst = max(worst, (torch.stack(steps) - uncached).abs().max().item() / scale)
    return worst


def worst_error(reference: Gato, driver: Lanes, steps: int) -> tuple[float, int]:
    """Play while lanes restart at random and one never does; the largest error, and the longest episode in tokens."""
    generator = torch.Generator().manual_seed(1)
    start = torch.ones(driver.lanes, dtype=torch.bool)
    worst, longest = 0.0, 0
    for t in range(steps):
        driver.step(observe(driver.config, (driver.lanes,), generator), start)
        start = torch.rand(driver.lanes, generator=generator) < 0.004
        start[0] = False
        if t == steps - 1:
            start[:] = True
        for lane in start.nonzero().flatten().tolist():
            tokens, cached = driver.forget(lane)
            longest = max(longest, len(tokens))
            worst = max(worst, error(reference, tokens, cached, driver.prompt))
    return worst, longest


@pytest.mark.parametrize(("config", "lanes", "steps"), [
    (dataclasses.replace(NANO, context=50), 5, 300),  # a context that is no multiple of a step
    (NANO, 16, 625),
])  # fmt: skip
def test_cached_equals_uncached_through_resets_and_evictions(config: GatoConfig, lanes: int, steps: int) -> None:
    """10,000 environment steps at full size."""
    model = harsh(config)
    worst, longest = worst_error(model, Lanes(model, lanes, TorchDecoder), steps)
    assert longest == steps * STEP  # far beyond the context
    assert worst < 1e-5


@pytest.mark.parametrize(("context", "prompt"), [(50, 25), (100, 1), (200, 70)])
def test_prompts_stay_and_cached_still_equals_uncached(context: int, prompt: int) -> None:
    """Beyond the context, with prompts of other lengths in other lanes, and new ones with new episodes.

    In float64, where nothing hides behind rounding.
    """
    model = harsh(dataclasses.replace(NANO, context=context)).double()
    worst, longest = worst_error(model, Lanes(model, 4, TorchDecoder, prompt), 100)
    assert longest == prompt + 100 * STEP > 2 * context
    assert worst < 1e-12


@pytest.mark.parametrize("kind", DECODERS)
def test_a_prompt_is_given_to_its_lanes_alone(kind: type[TorchDecoder | Engine]) -> None:
    """What is pinned anew in one lane changes it, at any age, and no other."""
    model = harsh(dataclasses.replace(NANO, context=40, layers=2))
    drivers = [Lanes(model, 3, kind, 6) for _ in range(2)]
    generator, middle = torch.Generator().manual_seed(0), torch.tensor([False, True, False])
    observations, start = observe(model.config, (40, 3), generator), torch.ones(3, dtype=torch.bool)
    for t, observation in enumerate(observations):
        first, second = (driver.step(observation, start if t == 0 else ~start) for driver in drivers)
        same = [torch.equal(a, b) for a, b in zip(*(d.decoder.logits for d in drivers), strict=True)]
        assert all(same) and torch.equal(first, second) if t < 20 else not all(same)
        for a, b in zip(*(driver.decoder.logits for driver in drivers), strict=True):
            assert torch.equal(a[[0, 2]], b[[0, 2]])
        if t == 19:
            other = random_prompts(model.config, 1, 6, seed=99)
            drivers[1].decoder.pin(middle, Prefill(other, torch.full_like(other, -1), None, None))


@pytest.mark.parametrize(("context", "prompt"), [(50, 0), (512, 0), (50, 7), (200, 70), (512, 114)])
def test_the_engine_is_as_near_to_the_truth_as_pytorch(context: int, prompt: int) -> None:
    """Float32 rounds: with these weights PyTorch itself is 1e-5 from float64, and the engine must be no farther."""
    model = harsh(dataclasses.replace(NANO, context=context))
    exact = copy.deepcopy(model).double()
    steps = 150 if prompt else 300
    (engine, longest), (pytorch, _) = (
        worst_error(exact, Lanes(model, 5, kind, prompt), steps) for kind in (Engine, TorchDecoder)
    )
    assert longest == prompt + steps * STEP > 2 * context
    assert engine < 1.2 * pytorch < 2.4e-5


@pytest.mark.parametrize("kind", DECODERS)
def test_lanes_equal_single_lanes(kind: type[TorchDecoder | Engine]) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(NANO, context=40)
    model = Gato(config).eval()
    generator = torch.Generator().manual_seed(2)
    observations = observe(config, (30, 3), generator)
    starts = torch.rand(30, 3, generator=generator) < 0.1
    starts[0] = True
    together = Lanes(model, 3, kind)
    alone = [Lanes(model, 1, kind) for _ in range(3)]
    for observation, start in zip(observations, starts, strict=True):
        actions = together.step(observation, start)
        for lane in range(3):
            assert torch.equal(alone[lane].step(observation[lane : lane + 1], start[lane : lane + 1])[0], actions[lane])
    for lane in range(3):
        torch.testing.assert_close(together.logits[lane], alone[lane].logits[0])  # of both action tokens


def test_a_ring_of_context_slots_would_be_too_small() -> None:
    """SPEC: the ring holds context + n - 1 slots; with fewer, a pass overwrites what its first query still sees."""
    torch.manual_seed(0)
    config = dataclasses.replace(NANO, context=16)
    model = Gato(config).eval()
    tokens = torch.randint(0, config.vocabulary.size, (1, 64))
    expected = model(tokens)
    errors = []
    for longest_pass in (8, 1):
        cache = Cache(config, 1, longest_pass)
        outputs = torch.cat([model(tokens[:, i : i + 8], cache=cache) for i in range(0, 64, 8)], dim=1)
        errors.append((outputs - expected).abs().max().item())
    assert cache.slots == 16
    assert errors[0] < 1e-5 < 1e-2 < errors[1]
