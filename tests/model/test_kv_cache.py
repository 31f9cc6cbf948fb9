"""Cached stepping gives the logits of one uncached forward over the whole episode, in every layout and decoder."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.decoder import Decoder, Legal, Prefill
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.gato import Gato
from gato_agent.model.kv_cache import ALIGNED, BUCKETS, EMPTY, KVCache
from tests.helpers.driving import Driver, legal_for, observe, random_prompts, worst_error
from tests.helpers.harsh import harsh
from tests.helpers.shapes import LAYOUTS, NANO
from tests.helpers.traced import TracedDecoder

Kind = type[TorchDecoder | CpuDecoder | TracedDecoder]
DECODERS = TorchDecoder, CpuDecoder, TracedDecoder
layouts = pytest.mark.parametrize("layout", LAYOUTS)
decoders = pytest.mark.parametrize("kind", DECODERS)


def shaped(layout: str, **fields: Any) -> Gato:
    """A harsh model of a layout with two layers, unless said otherwise."""
    return harsh(dataclasses.replace(NANO, **{"layers": 2, **LAYOUTS[layout], **fields}))


@layouts
@decoders
def test_cached_equals_uncached_through_restarts_and_evictions(layout: str, kind: Kind) -> None:
    """Episodes far beyond the context."""
    model = shaped(layout, context=32)
    driver = Driver(model, 20, kind)
    worst, longest = worst_error(model, driver, 100)
    assert longest == 100 * driver.layout.span > 10 * 32
    assert worst < 1e-5


@pytest.mark.slow
@layouts
@decoders
def test_cached_equals_uncached_at_full_size(layout: str, kind: Kind) -> None:
    """10,000 environment steps of `nano`, beyond its own context."""
    model = shaped(layout, layers=NANO.layers)
    driver = Driver(model, 16, kind)
    worst, longest = worst_error(copy.deepcopy(model).double(), driver, 625)
    assert longest == 625 * driver.layout.span > 4 * NANO.context
    assert worst < 1e-5


@layouts
@pytest.mark.parametrize(("kind", "context", "prompt", "actions"), [
    (TorchDecoder, 50, 0, 2), (TorchDecoder, 50, 25, 2), (TorchDecoder, 100, 1, 5), (TorchDecoder, 200, 70, 1),
    (TracedDecoder, 50, 25, 3),
])  # fmt: skip
def test_they_are_equal_where_nothing_hides_behind_rounding(
    layout: str, kind: Kind, context: int, prompt: int, actions: int
) -> None:
    """In float64, with a context that is no multiple of a timestep and prompts that differ between environments."""
    model = shaped(layout, context=context).double()
    driver = Driver(model, 4, kind, prompt, legal_for(model.config, actions))
    steps = 2 * context // driver.layout.span + 20
    worst, longest = worst_error(model, driver, steps)
    assert longest == prompt + steps * driver.layout.span > 2 * context
    assert worst < 1e-12


@layouts
@pytest.mark.parametrize(("context", "prompt", "actions"), [(50, 7, 2), (50, 25, 4), (200, 70, 1)])
def test_the_cpu_decoder_equals_it_with_prompts(layout: str, context: int, prompt: int, actions: int) -> None:
    model = shaped(layout, context=context)
    driver = Driver(model, 5, CpuDecoder, prompt, legal_for(model.config, actions))
    steps = 2 * context // driver.layout.span + 20
    worst, longest = worst_error(model, driver, steps)
    assert longest == prompt + steps * driver.layout.span > 2 * context
    assert worst < 1e-5


@layouts
@pytest.mark.parametrize(("kind", "actions"), [(TorchDecoder, 33), (CpuDecoder, 33), (CpuDecoder, 70)])
def test_long_actions_equal_it_too(layout: str, kind: Kind, actions: int) -> None:
    """Several hidden states predict an action, or it has more tokens than the observation that is rewound to."""
    model = shaped(layout, context=actions + 7, layers=1)
    driver = Driver(model, 2, kind, 0, legal_for(model.config, actions))
    steps = 2 * model.config.context // driver.layout.span + 5
    worst, longest = worst_error(model, driver, steps)
    assert longest > 2 * model.config.context
    assert worst < 1e-5


@pytest.mark.parametrize("layout", ["decoder", "separator"])
def test_long_actions_are_captured_too(layout: str) -> None:
    model = shaped(layout, context=20, layers=1)
    assert worst_error(model, Driver(model, 2, TracedDecoder, 0, legal_for(model.config, 33)), 15)[0] < 1e-5


@layouts
@decoders
def test_a_prompt_is_given_to_its_environments_alone(layout: str, kind: Kind) -> None:
    """A new prompt in one environment changes its logits, at any position, and no other's."""
    model = shaped(layout, context=40)
    drivers = [Driver(model, 3, kind, 6) for _ in range(2)]
    generator, middle = torch.Generator().manual_seed(0), torch.tensor([False, True, False])
    start = torch.ones(3, dtype=torch.bool)
    for t in range(30):
        seen = observe(model.config, (3,), generator)
        first, second = (driver.step(*seen, start if t == 0 else ~start) for driver in drivers)
        same = [torch.equal(a, b) for a, b in zip(*(d.decoder.logits for d in drivers), strict=True)]
        assert all(same) and torch.equal(first, second) if t < 15 else not all(same)
        for a, b in zip(*(driver.decoder.logits for driver in drivers), strict=True):
            assert torch.equal(a[[0, 2]], b[[0, 2]])
        if t == 14:
            other = random_prompts(model.config, 1, 6, seed=99)
            drivers[1].decoder.prefill_prefix(middle, Prefill(other, torch.full_like(other, -1), None, None))


@pytest.mark.parametrize(
    ("layout", "context", "prompt"),
    [
        *((layout, context, prompt) for layout in LAYOUTS for context, prompt in ((50, 0), (50, 7), (200, 70))),
        ("decoder", 512, 114),
        *(pytest.param("hidden", 512, prompt, marks=pytest.mark.slow) for prompt in (0, 114)),
        pytest.param("decoder", 512, 0, marks=pytest.mark.slow),
    ],
)
def test_the_cpu_decoder_is_as_near_to_the_truth_as_pytorch(layout: str, context: int, prompt: int) -> None:
    """Float32 rounds: with these weights PyTorch itself is 1e-5 from float64, and C++ must be no farther."""
    model = shaped(layout, context=context, layers=NANO.layers)
    exact = copy.deepcopy(model).double()
    drivers = [Driver(model, 3, kind, prompt) for kind in (CpuDecoder, TorchDecoder)]
    steps = 2 * context // drivers[0].layout.span + 20
    (compiled, longest), (pytorch, _) = (worst_error(exact, driver, steps) for driver in drivers)
    assert longest > 2 * context
    assert compiled < 1.2 * max(pytorch, 2e-6)  # which of two that near is nearer is chance
    assert pytorch < 2e-5


@layouts
@pytest.mark.parametrize("kind", [TorchDecoder, TracedDecoder])
def test_environments_equal_single_ones(layout: str, kind: Kind) -> None:
    """In C++ they are equal bit by bit: see below."""
    model = shaped(layout, context=24)
    generator = torch.Generator().manual_seed(2)
    starts = torch.rand(15, 3, generator=generator) < 0.1
    starts[0] = True
    together, alone = Driver(model, 3, kind), [Driver(model, 1, kind) for _ in range(3)]
    for start in starts:
        observed, value_groups = observe(model.config, (3,), generator)
        actions = together.step(observed, value_groups, start)
        for env in range(3):
            one = slice(env, env + 1)
            assert torch.equal(alone[env].step(observed[one], value_groups[one], start[one])[0], actions[env])
            for a, b in zip(alone[env].decoder.logits, together.decoder.logits, strict=True):
                torch.testing.assert_close(a[0], b[env], atol=1e-5, rtol=1e-5)


@layouts
@decoders
def test_rewinding_forgets_what_was_read(layout: str, kind: Kind) -> None:
    """A step that is taken back, whatever it was shown, leaves all later logits as they are."""
    model = shaped(layout, context=24)
    driver, other = Driver(model, 2, kind, 5), Driver(model, 2, kind, 5)
    generator, start = torch.Generator().manual_seed(3), torch.ones(2, dtype=torch.bool)
    for t in range(20):
        seen = observe(model.config, (2,), generator)
        if t == 7:
            last = other.last
            other.step(*observe(model.config, (2,), torch.Generator().manual_seed(9)), ~start)
            other.last = last
            other.decoder.rewind(other.layout.span)
        driver.step(*seen, start if t == 0 else ~start)
        other.step(*seen, start if t == 0 else ~start)
        for a, b in zip(driver.decoder.logits, other.decoder.logits, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_rewinding_takes_no_token_from_the_context() -> None:
    """The cache is as large as the context and the longest pass, or what is rewound, and no larger."""
    config = dataclasses.replace(NANO, context=128)
    for margin in (0, 1, 64, 65):
        slots = KVCache(config, 1, margin).slots
        assert 128 + margin <= slots < 128 + margin + ALIGNED
    cache = KVCache(config, 2, 3)
    cache.reset_envs(torch.tensor([True, True]))
    for tokens, taken in ((5, 0), (4, 3), (1, 0)):
        cache.reserve(torch.ones(2, tokens, dtype=torch.int64))
        cache.rewind(taken)
    assert cache.next_position.tolist() == [7, 7]
    assert sorted(cache.index[0][cache.index[0] != EMPTY].tolist()) == list(range(7))


def test_buckets_hold_all_that_was_written() -> None:
    """Whatever is reserved, rewound and restarted, a pass reads all keys of its context."""
    config = dataclasses.replace(NANO, context=400)
    cache, generator, sizes = KVCache(config, 3, 7), torch.Generator().manual_seed(0), set[int]()
    for _ in range(300):
        starts = torch.rand(3, generator=generator) < 0.01
        cache.plan_reset(starts, -1)
        cache.reset_envs(starts, -1)
        tokens, rewound = 8, int(torch.randint(0, 8, (), generator=generator))
        bucket = cache.plan(tokens, rewound)
        position, visible = cache.reserve(torch.ones(3, tokens, dtype=torch.int64))
        assert visible.shape == (3, 1, tokens, bucket)
        distance = position.unsqueeze(2) - cache.index.unsqueeze(1)
        assert torch.equal(visible.sum(-1).squeeze(1), ((distance >= 0) & (distance < 400)).sum(-1))
        sizes.add(bucket)
        cache.rewind(rewound)
    assert sizes == {*(size for size in BUCKETS if size < cache.slots), cache.slots}


def test_a_ring_of_context_slots_would_be_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring holds context + n - 1 slots; with fewer, a pass overwrites keys that its first query attends to."""
    monkeypatch.setattr("gato_agent.model.kv_cache.ALIGNED", 1)
    torch.manual_seed(0)
    config = dataclasses.replace(NANO, context=16)
    model = Gato(config).eval()
    tokens = torch.randint(0, config.vocabulary.size, (1, 64))
    expected = model(tokens)
    errors = []
    for longest_pass in (8, 1):
        cache = KVCache(config, 1, longest_pass - 1)
        outputs = torch.cat([model(tokens[:, i : i + 8], cache=cache) for i in range(0, 64, 8)], dim=1)
        errors.append((outputs - expected).abs().max().item())
    assert cache.slots == 16
    assert errors[0] < 1e-5 < 1e-2 < errors[1]


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("visible", "separator"))) for name in LAYOUTS]
)
def test_an_episodes_numbers_do_not_depend_on_what_was_played_before(layout: str) -> None:
    """Bit by bit: by number of environments, threads, index, restarts of others, and episodes that came before."""
    model = shaped(layout, context=40)
    generator = torch.Generator().manual_seed(5)
    shown = [observe(model.config, (1,), generator) for _ in range(20)]  # longer than the context
    prompt = random_prompts(model.config, 1, 6, seed=7)

    def play(decoder: Callable[[Gato, Legal], Decoder], num_envs: int, env: int, before: int) -> list[Tensor]:
        """Logits of the episode, which begins after `before` steps in one of the environments."""
        driver, others = Driver(model, num_envs, decoder, 6), torch.Generator().manual_seed(num_envs + before)
        own, actual = torch.arange(num_envs) == env, list[Tensor]()
        for t in range(before + len(shown)):
            observed, value_groups = observe(model.config, (num_envs,), others)
            start = torch.rand(num_envs, generator=others) < (1.0 if t == 0 else 0.2)
            if t >= before:
                start &= ~own
                observed[env], value_groups[env] = (part[0] for part in shown[t - before])
            if t == before:  # with the prompt that the episode has elsewhere
                driver.start(own, prompt)
            driver.step(observed, value_groups, start)
            if t >= before:
                actual += [logits[env].clone() for logits in driver.decoder.logits]
        return actual

    expected = play(CpuDecoder, 1, 0, 0)
    for num_envs, env, before, threads in ((1, 0, 3, 1), (3, 2, 17, 1), (9, 4, 25, 1), (12, 11, 5, 2), (2, 0, 0, 2)):
        actual = play(lambda model, legal, n=threads: CpuDecoder(model, legal, threads=n), num_envs, env, before)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
