"""Recorded steps: equal to those that were not recorded, whatever fills the cache, and in one copy to the device."""

import contextlib
import dataclasses
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gato_agent.envs.errors import UsageError
from gato_agent.inference.decoders.cuda_graph_decoder import GraphDecoder
from gato_agent.inference.decoders.cuda_graphs import ALIGNED, GraphStep, Inputs, InputSpec
from gato_agent.inference.decoders.decoder import GREEDY, Prefill, StepOptions
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.bf16_linear import BFloat16Linear
from gato_agent.model.gato import Gato
from gato_agent.model.kv_cache import BUCKETS
from gato_agent.tokens.space_tokenizer import VALUES
from tests.helpers.driving import Driver, forced, legal_for, observe, play, sampled, worst_error
from tests.helpers.harsh import harsh
from tests.helpers.shapes import LAYOUTS, NANO
from tests.helpers.traced import TracedDecoder

SMALL = dataclasses.replace(NANO, context=40, layers=2)
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def shaped(layout: str, **fields: int) -> Gato:
    return harsh(dataclasses.replace(SMALL, **LAYOUTS[layout], **fields))


@pytest.mark.parametrize(("layout", "context", "prompt"), [
    ("decoder", 300, 0), ("hidden", 300, 0), ("visible", 50, 0), ("hidden", 50, 20)
])  # fmt: skip
def test_replayed_equals_uncached_over_all_buckets(layout: str, context: int, prompt: int) -> None:
    """Beyond the context, and over the bounds of buckets before it is full."""
    model = shaped(layout, context=context)
    driver = Driver(model, 4, TracedDecoder, prompt)
    steps = 2 * context // driver.layout.span + 10
    worst, longest = worst_error(model, driver, steps)
    assert longest == prompt + steps * driver.layout.span > 2 * context
    assert worst < 1e-5
    decoder = driver.decoder
    assert isinstance(decoder, TracedDecoder)
    assert decoder.traces == sum(size < decoder.cache.slots for size in BUCKETS) + 1  # and none later


@layouts
def test_it_samples_the_same_ids_and_follows_what_it_is_told(layout: str) -> None:
    model = shaped(layout)
    expected = play(model, TorchDecoder, 2, 40, sampled(2, 2))
    actual = play(model, TracedDecoder, 2, 40, sampled(2, 2))
    assert torch.equal(actual.actions, expected.actions)
    assert len(actual.actions[:, 0, 1].unique()) > 20
    forced_options = play(model, TracedDecoder, 2, 40, forced(expected))
    assert torch.equal(forced_options.actions, expected.actions)
    assert forced_options.error(expected) < 1e-5


@layouts
def test_bfloat16_is_near_and_leaves_the_model_alone(layout: str) -> None:
    model = shaped(layout)
    expected = play(model, TorchDecoder, 2, 40)
    decoder = TracedDecoder(model, legal_for(model.config), "bfloat16")
    actual = play(model, decoder, 2, 40, forced(expected))
    assert decoder.cache.k.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(part.dtype == torch.float32 for part in actual.logits)
    assert 0 < actual.error(expected) < 0.05
    linear = [name for name, module in decoder.model.named_modules() if isinstance(module, nn.Linear)]
    assert all(name.startswith("embedding.patch") for name in linear)


@layouts
def test_options_of_another_shape_may_come_at_any_time(layout: str) -> None:
    """With a full ring, of which a step overwrites what its first pass still sees: what is recorded then leaves it."""
    model = shaped(layout)
    draw = sampled(2, 2)

    def options(step: int) -> StepOptions:
        if step in (30, 33):
            return StepOptions(forced=torch.tensor([[low for low, _ in legal_for(SMALL)]] * 2))
        return StepOptions(marginal=True) if step == 35 else draw(step) if step in (36, 38) else GREEDY

    expected, actual = (play(model, kind, 2, 40, options) for kind in (TorchDecoder, TracedDecoder))
    assert torch.equal(actual.actions, expected.actions)
    assert actual.error(expected) < 1e-5


@layouts
def test_a_reset_to_the_same_shape_forgets_episodes_and_keeps_captured_steps(layout: str) -> None:
    model = shaped(layout)
    decoder = TracedDecoder(model, legal_for(SMALL))
    first = play(model, decoder, 2, 20)
    tapes, cache = decoder.traces, decoder.cache
    assert play(model, decoder, 2, 20).equals(first)
    assert decoder.traces == tapes and decoder.cache is cache
    play(model, decoder, 3, 2)
    assert decoder.traces == 2 * tapes


def test_bfloat16_linear_rounds_its_weights_alone() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48, bias=False), torch.randn(3, 5, 64)
    expected = x.double() @ linear.weight.bfloat16().double().T
    assert (BFloat16Linear(linear)(x) - expected).abs().max() < 2e-4  # inputs have sixteen bits, not eight
    assert (x.bfloat16().double() @ linear.weight.bfloat16().double().T - expected).abs().max() > 2e-3


def test_where_nothing_can_be_captured_it_plays_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(step: GraphStep) -> GraphStep:
        raise RuntimeError("operation not permitted when stream is capturing")

    model = shaped("decoder")
    expected = play(model, TorchDecoder, 2, 40)
    with caplog.at_level(logging.WARNING):
        actual = play(model, lambda model, legal: GraphDecoder(model, legal, capture=refuse), 2, 40)
    assert torch.equal(actual.actions, expected.actions)
    assert caplog.messages == ["playing without CUDA graphs: operation not permitted when stream is capturing"]


def test_int8_is_for_cpus() -> None:
    with pytest.raises(UsageError, match="int8 is for CPUs: use bfloat16"):
        GraphDecoder(shaped("decoder"), legal_for(SMALL), "int8")


DTYPES = st.sampled_from([torch.uint8, torch.int16, torch.int64, torch.float64])


@given(st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=3), DTYPES), min_size=1, max_size=6))
def test_inputs_of_any_layout_arrive(parts: list[tuple[list[int], torch.dtype]]) -> None:
    layout: InputSpec = tuple((str(at), torch.Size(shape), dtype) for at, (shape, dtype) in enumerate(parts))
    inputs = Inputs(layout, torch.device("cpu"))
    addresses = [part.data_ptr() for part in inputs.tensors.values()]
    for seed in range(2):
        torch.manual_seed(seed)
        values = {name: torch.randint(0, 100, shape).to(dtype) for name, shape, dtype in layout}
        inputs.fill(values)
        assert all(torch.equal(inputs.tensors[name], part) for name, part in values.items())
    assert [part.data_ptr() for part in inputs.tensors.values()] == addresses
    assert all((address - addresses[0]) % ALIGNED == 0 for address, part in zip(addresses, parts, strict=True) if part)


@layouts
def test_no_step_reads_a_value_or_leaves_its_device(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """On a device without values, which knows no autocast either; with every option, masks among them."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    config = dataclasses.replace(NANO, layers=1, **LAYOUTS[layout])
    decoder = GraphDecoder(Gato.skeleton(config).eval(), legal_for(config, 3), capture=lambda step: step)
    decoder.reset(3, 6)
    with torch.device("meta"):
        tokens, value_groups = (
            torch.zeros(3, 6, dtype=torch.int64),
            torch.zeros(3, config.values_per_token, dtype=torch.int16),
        )
        patches, intervals = torch.zeros(3, 16, 16, 4, dtype=torch.uint8), torch.zeros(3, 2, 2, dtype=torch.int64)
        drawn = torch.zeros(3, 3, dtype=torch.float64), torch.ones((), dtype=torch.float64)
        allowed = torch.zeros(3, sum(high - low for low, high in decoder.legal), dtype=torch.bool)
        forced_options = torch.zeros(3, 3, dtype=torch.int64)
    prefill = Prefill(tokens, tokens, patches, intervals, value_groups if config.values_per_token > 1 else None)
    decoder.cache.plan(8)
    for options in (
        GREEDY, StepOptions(*drawn), StepOptions(*drawn, allowed=allowed), StepOptions(allowed=allowed),
        StepOptions(forced=forced_options), StepOptions(*drawn, marginal=True),
    ):  # fmt: skip
        with torch.inference_mode():
            action = decoder.decode(prefill, options)
        assert action.device.type == "meta" and action.shape == (3, 3)


def test_observations_enter_in_one_copy() -> None:
    """One copy for any options of a step, and no other transfer."""
    model = shaped("decoder")
    driver, filled = Driver(model, 2, TracedDecoder), list[int]()
    fill = Inputs.fill

    def counted(self: Inputs, parts: dict[str, Tensor]) -> None:
        filled.append(len(parts))
        fill(self, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inputs, "fill", counted)
        for t in range(3):
            seen = observe(SMALL, (2,), torch.Generator().manual_seed(t))
            value_groups = torch.zeros(2, 8, dtype=torch.int16)
            driver.step(seen[0].index_fill(1, torch.tensor([3]), VALUES), value_groups, torch.tensor([t == 0] * 2))
    assert filled == [4, 4, 4]  # tokens, local positions, value groups, and where episodes begin
