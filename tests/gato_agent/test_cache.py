"""Cached stepping gives the logits of one uncached forward over the whole episode."""

import dataclasses

import pytest
import torch
from torch import Tensor

from gato_agent.cache import Cache
from gato_agent.config import GatoConfig
from gato_agent.decode import Prefill, control_step
from gato_agent.model import Gato
from gato_agent.spaces import PAD

OBSERVATION, ACTION = 4, 2
STEP = OBSERVATION + 1 + ACTION


class Lanes:
    """Drives `control_step` with random observations and restarts, and keeps what it saw and answered."""

    def __init__(self, model: Gato, lanes: int) -> None:
        self.model, self.lanes = model, lanes
        self.cache = Cache(model.config, lanes, OBSERVATION + 2)
        self.last = torch.full((lanes, 1), PAD)
        self.local = torch.tensor([[-1, *range(OBSERVATION), -1]]).expand(lanes, -1)
        self.logits: list[list[Tensor]] = [[] for _ in range(lanes)]
        self.tokens: list[list[Tensor]] = [[] for _ in range(lanes)]

    def step(self, observation: Tensor, start: Tensor) -> Tensor:
        """One control step; tokens and logits of each lane are appended to its current episode."""
        vocabulary = self.model.config.vocabulary
        self.cache.restart(start, age=-1)
        self.last = self.last.masked_fill(start.unsqueeze(1), PAD)
        separator = torch.full((self.lanes, 1), vocabulary.separator)
        seen: list[Tensor] = []

        def choose(logits: Tensor) -> Tensor:
            seen.append(logits)
            return logits.argmax(-1)

        tokens = torch.cat((self.last, observation, separator), dim=1)
        legal = [(vocabulary.discrete, vocabulary.discrete + 9), (vocabulary.continuous, vocabulary.continuous + 1024)]
        action = control_step(self.model, self.cache, Prefill(tokens, self.local, None, None), legal, choose)
        self.last = action[:, -1:]
        for lane in range(self.lanes):
            self.tokens[lane].append(torch.cat((observation[lane], separator[lane], action[lane])))
            self.logits[lane] += [logits[lane] for logits in seen]
        return action

    def forget(self, lane: int) -> tuple[Tensor, list[Tensor]]:
        """Tokens and logits of the lane's episode so far; a new one begins."""
        episode = torch.cat(self.tokens[lane]), self.logits[lane]
        self.tokens[lane], self.logits[lane] = [], []
        return episode


def observe(config: GatoConfig, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random observations [*shape, OBSERVATION]; in half of them text was shorter than its place."""
    tokens = torch.randint(0, config.vocabulary.discrete, (*shape, OBSERVATION), generator=generator)
    tokens[torch.rand(shape, generator=generator) < 0.5, 1:3] = PAD
    return tokens


@torch.inference_mode()
def error(model: Gato, tokens: Tensor, cached: list[Tensor]) -> float:
    """Largest difference to one uncached forward, over max(1, largest absolute logit)."""
    vocabulary = model.config.vocabulary
    local = torch.tensor([*range(OBSERVATION), -1, -1, -1]).repeat(len(tokens) // STEP)
    hidden = model(tokens.unsqueeze(0), local=local.unsqueeze(0))[0]
    first = model.logits(hidden[OBSERVATION::STEP], vocabulary.discrete, vocabulary.discrete + 9)
    second = model.logits(hidden[OBSERVATION + 1 :: STEP], vocabulary.continuous, vocabulary.continuous + 1024)
    worst = 0.0
    for uncached, steps in ((first, cached[::2]), (second, cached[1::2])):
        scale = max(1.0, uncached.abs().max().item())
        worst = max(worst, (torch.stack(steps) - uncached).abs().max().item() / scale)
    return worst


@pytest.mark.parametrize(("config", "lanes", "steps"), [
    (dataclasses.replace(GatoConfig.nano(), context=50), 5, 300),  # a context that is no multiple of a step
    (GatoConfig.nano(), 16, 625),
])  # fmt: skip
def test_cached_equals_uncached_through_resets_and_evictions(config: GatoConfig, lanes: int, steps: int) -> None:
    """10,000 environment steps at full size: lanes restart at random, one never does."""
    torch.manual_seed(0)
    model = Gato(config).eval()
    with torch.no_grad():  # untrained attention is nearly uniform and would hide mistakes
        for block in model.blocks:
            block.attention.qkv.weight[: 2 * config.width] *= 2
    driver = Lanes(model, lanes)
    generator = torch.Generator().manual_seed(1)
    start = torch.ones(lanes, dtype=torch.bool)
    worst, longest = 0.0, 0
    for t in range(steps):
        driver.step(observe(config, (lanes,), generator), start)
        start = torch.rand(lanes, generator=generator) < 0.004
        start[0] = False
        if t == steps - 1:
            start[:] = True
        for lane in start.nonzero().flatten().tolist():
            tokens, cached = driver.forget(lane)
            longest = max(longest, len(tokens))
            worst = max(worst, error(model, tokens, cached))
    assert longest == steps * STEP  # far beyond the context
    assert worst < 1e-5


def test_lanes_equal_single_lanes() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(GatoConfig.nano(), context=40)
    model = Gato(config).eval()
    generator = torch.Generator().manual_seed(2)
    observations = observe(config, (30, 3), generator)
    starts = torch.rand(30, 3, generator=generator) < 0.1
    starts[0] = True
    together = Lanes(model, 3)
    alone = [Lanes(model, 1) for _ in range(3)]
    for observation, start in zip(observations, starts, strict=True):
        actions = together.step(observation, start)
        for lane in range(3):
            assert torch.equal(alone[lane].step(observation[lane : lane + 1], start[lane : lane + 1])[0], actions[lane])
    for lane in range(3):
        torch.testing.assert_close(together.logits[lane], alone[lane].logits[0])  # of both action tokens


def test_a_ring_of_context_slots_would_be_too_small() -> None:
    """SPEC: the ring holds context + n - 1 slots; with fewer, a pass overwrites what its first query still sees."""
    torch.manual_seed(0)
    config = dataclasses.replace(GatoConfig.nano(), context=16)
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
