"""Recorded steps: equal to those that were not recorded, whatever fills the cache, and in one copy to the device."""

import contextlib
import dataclasses
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gato_agent.decode import Choose, Prefill, Told, TorchDecoder
from gato_agent.envs.errors import UsageError
from gato_agent.graphs import GraphDecoder
from gato_agent.halved import Halved
from gato_agent.model import Gato
from gato_agent.recording import ALIGNED, Drawn, Inputs, Layout, Run
from gato_agent.static_cache import BUCKETS
from tests.gato_agent.harsh import harsh
from tests.gato_agent.shapes import NANO
from tests.gato_agent.taped import Taped
from tests.gato_agent.test_cache import Lanes, worst_error
from tests.gato_agent.test_engine import FLAT, PACKED, legal_for, model_of, play, play_packed


@pytest.mark.parametrize(("context", "prompt"), [(50, 0), (300, 0), (50, 20)])
def test_replayed_equals_uncached_through_resets_and_evictions(context: int, prompt: int) -> None:
    """Beyond the context, and over the bounds of buckets before it is full."""
    model = harsh(dataclasses.replace(NANO, context=context, layers=2))
    driver = Lanes(model, 4, Taped, prompt)
    worst, longest = worst_error(model, driver, 100)
    assert longest == prompt + 700 > 2 * context
    assert worst < 1e-5
    decoder = driver.decoder
    assert isinstance(decoder, Taped)
    assert decoder.tapes == sum(size < decoder.cache.slots for size in BUCKETS) + 1  # and none later


def test_it_samples_the_same_ids_and_follows_what_it_is_told() -> None:
    def choose() -> Choose:
        return Choose(0.7, [torch.Generator().manual_seed(lane) for lane in range(2)])

    model, legal = model_of(FLAT), legal_for(FLAT)
    expected, _ = play(TorchDecoder(model, legal), FLAT, 2, 40, choose())
    actions, _ = play(Taped(model, legal), FLAT, 2, 40, choose())
    assert torch.equal(actions, expected)
    assert len(actions[:, 0, 1].unique()) > 20

    decoder, wanted = Taped(model, legal), torch.tensor([[1, 700, 3], [0, 20, 200]])
    decoder.reset(2, 7)
    tokens = torch.zeros(2, 7, dtype=torch.int64)
    for _ in range(3):
        action = decoder.step(Prefill(tokens, tokens - 1, None, None), Told(wanted))
        assert torch.equal(action, wanted + torch.tensor([low for low, _ in legal]))


def test_bfloat16_is_near_and_leaves_the_model_alone() -> None:
    model, legal = model_of(FLAT), legal_for(FLAT)[:1]
    _, expected = play(TorchDecoder(model, legal), FLAT, 2, 40, Choose())
    decoder = Taped(model, legal, "bfloat16")
    _, found = play(decoder, FLAT, 2, 40, Choose())
    assert decoder.cache.k.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(part.dtype == torch.float32 for part in found)
    scale = max(1.0, *(part.abs().max().item() for part in expected))
    errors = [(a - b).abs().max().item() / scale for a, b in zip(found, expected, strict=True)]
    assert 0 < max(errors) < 0.03


def test_inputs_of_another_shape_may_come_at_any_time() -> None:
    """With a full ring, of which a step overwrites what its first pass still sees: what is recorded then leaves it."""

    def play_on(decoder: TorchDecoder) -> list[Tensor]:
        decoder.reset(2, 7)
        generator, found = torch.Generator().manual_seed(0), []
        for t in range(40):
            tokens = torch.randint(0, FLAT.vocabulary.size, (2, 7), generator=generator)
            choose = Told(torch.full((2, 3), t % 2)) if t in (30, 33) else Choose()
            found.append(decoder.step(Prefill(tokens, torch.full_like(tokens, -1), None, None), choose))
        return [*found, *decoder.logits]

    model, legal = model_of(FLAT), legal_for(FLAT)
    for a, b in zip(play_on(Taped(model, legal)), play_on(TorchDecoder(model, legal)), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_reset_to_the_same_shape_forgets_episodes_and_keeps_what_was_recorded() -> None:
    decoder = Taped(model_of(FLAT), legal_for(FLAT))
    first, there = play(decoder, FLAT, 2, 20, Choose())
    tapes, ring = decoder.tapes, decoder.cache
    again, here = play(decoder, FLAT, 2, 20, Choose())
    assert torch.equal(first, again) and all(torch.equal(a, b) for a, b in zip(there, here, strict=True))
    assert decoder.tapes == tapes and decoder.cache is ring
    play(decoder, FLAT, 3, 2, Choose())
    assert decoder.tapes == 2 * tapes


def test_halved_rounds_its_weights_alone() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48, bias=False), torch.randn(3, 5, 64)
    expected = x.double() @ linear.weight.bfloat16().double().T
    assert (Halved(linear)(x) - expected).abs().max() < 2e-4  # inputs have sixteen bits, not eight
    assert (x.bfloat16().double() @ linear.weight.bfloat16().double().T - expected).abs().max() > 2e-3


def test_packs_and_actions_predicted_at_once_are_those_of_pytorch() -> None:
    model, legal = model_of(PACKED), legal_for(PACKED)
    expected, there = play_packed(TorchDecoder(model, legal), 9)
    actions, here = play_packed(Taped(model, legal), 9)
    assert torch.equal(actions, expected)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(here, there, strict=True))
    halved = Taped(model, legal, "bfloat16")
    _, near = play_packed(halved, 9)
    scale = max(1.0, *(part.abs().max().item() for part in there))
    assert 0 < max((a - b).abs().max().item() for a, b in zip(near, there, strict=True)) < 0.1 * scale
    linear = [name for name, module in halved.model.named_modules() if isinstance(module, nn.Linear)]
    assert all(name.startswith("embedding.patch") for name in linear)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    model = harsh(dataclasses.replace(NANO, context=50, layers=2))
    driver = Lanes(model, 2, lambda model, legal: GraphDecoder(model, legal, compiled=True, record=lambda step: step))
    assert worst_error(model, driver, 40)[0] < 1e-5


def test_where_nothing_can_be_recorded_it_plays_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(step: Run) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")

    model, legal = model_of(FLAT), legal_for(FLAT)
    expected, _ = play(TorchDecoder(model, legal), FLAT, 2, 40, Choose())
    with caplog.at_level(logging.WARNING):
        actions, _ = play(GraphDecoder(model, legal, record=refuse), FLAT, 2, 40, Choose())
    assert torch.equal(actions, expected)
    assert caplog.messages == ["playing without CUDA graphs: operation not permitted when stream is capturing"]


def test_int8_is_for_cpus() -> None:
    with pytest.raises(UsageError, match="int8 is for CPUs: use bfloat16"):
        GraphDecoder(model_of(FLAT), legal_for(FLAT), "int8")


DTYPES = st.sampled_from([torch.uint8, torch.int16, torch.int64, torch.float64])


@given(st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=3), DTYPES), min_size=1, max_size=6))
def test_inputs_of_any_layout_arrive(parts: list[tuple[list[int], torch.dtype]]) -> None:
    layout: Layout = tuple((str(at), torch.Size(shape), dtype) for at, (shape, dtype) in enumerate(parts))
    inputs = Inputs(layout, torch.device("cpu"))
    addresses = [part.data_ptr() for part in inputs.there.values()]
    for seed in range(2):
        torch.manual_seed(seed)
        given = {name: torch.randint(0, 100, shape).to(dtype) for name, shape, dtype in layout}
        inputs.fill(given)
        assert all(torch.equal(inputs.there[name], part) for name, part in given.items())
    assert [part.data_ptr() for part in inputs.there.values()] == addresses
    assert all((address - addresses[0]) % ALIGNED == 0 for address, part in zip(addresses, parts, strict=True) if part)


@pytest.mark.parametrize("shape", [{}, {"pack": 4, "parallel_actions": 8}])
def test_no_step_reads_a_value_or_leaves_its_device(monkeypatch: pytest.MonkeyPatch, shape: dict[str, int]) -> None:
    """On a device without values, which knows no autocast either."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    config = dataclasses.replace(NANO, layers=1, **shape)
    decoder = GraphDecoder(Gato.skeleton(config).eval(), legal_for(config), record=lambda step: step)
    decoder.reset(3, 6)
    with torch.device("meta"):
        tokens, packs = torch.zeros(3, 6, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int16)
        patches, intervals = torch.zeros(3, 16, 16, 4, dtype=torch.uint8), torch.zeros(3, 2, 2, dtype=torch.int64)
        noises = {f"noise{at}": torch.zeros(3, high - low) for at, (low, high) in enumerate(decoder.legal)}
        drawn = Drawn({"temperature": torch.ones(()), **noises})
    prefill = Prefill(tokens, tokens, patches, intervals, packs if shape else None)
    decoder.cache.plan(8)
    for choose in (Choose(), drawn):
        with torch.inference_mode():
            action = decoder.decode(prefill, choose)
        assert action.device.type == "meta" and action.shape == (3, 3)
