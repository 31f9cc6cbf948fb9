"""Requests that would index memory out of bounds: refused by name, through Python and by the C++ itself."""

import ctypes
import dataclasses

import pytest
import torch

from gato_agent.inference.decoders import cpu_decoder
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.model import cpu_attention
from gato_agent.model.config import GatoConfig
from gato_agent.model.cpu_attention import CpuAttention
from gato_agent.native import abi
from gato_agent.tokens.space_tokenizer import PAD, PATCH
from tests.helpers.harsh import harsh
from tests.helpers.native_core import FLAT, fuzz_ctypes, fuzz_wrapper, legal_for, message_of, prepared
from tests.helpers.sequences import random_sequences
from tests.helpers.shapes import LAYOUTS

layouts = pytest.mark.parametrize("layout", LAYOUTS)


class Other(ctypes.Structure):
    """A struct that the library has not."""

    _fields_ = [("number", ctypes.c_int32)]


@layouts
def test_random_requests_through_python_are_refused_or_give_legal_ids(layout: str) -> None:
    assert fuzz_wrapper(layout, 400) > 100


@layouts
def test_random_requests_to_the_library_are_refused_or_run(layout: str) -> None:
    parts = (
        "envs",
        "count of tokens",
        "action tokens",
        "next position",
        "token ids",
        "local",
        "forced",
        "uniforms",
    )
    messages = fuzz_ctypes(layout, 600)
    for part in (*parts, "missing", "patches", "value_groups", "a mask of a step must allow"):
        assert any(part in message for message in messages), part
    assert "" in messages


@pytest.mark.parametrize(
    ("part", "field", "values", "message"),
    [
        ("_weights", "width", (0, -64, 65, 2**31 - 1), "shape"),
        ("_weights", "heads", (0, -1, 3, 64), "shape"),
        ("_weights", "feed_forward", (0, 64, -128), "shape"),
        ("_weights", "kind", (-1, 3), "shape"),
        ("_weights", "rewound", (-1, 1), "shape"),
        ("_weights", "layer", (None,), "shape"),
        ("_weights", "ids", (0, 10), "shape|token ids"),
        ("_weights", "chosen_ids", (-1, 10), "shape|legal ids"),
        ("_weights", "positions", (0,), "shape"),
        ("_weights", "actions", (1, 0, -1), "number of action tokens"),
        ("_ring", "num_envs", (0, -1), "sizes of the cache"),
        ("_ring", "threads", (0, -1), "sizes of the cache"),
        ("_ring", "slots", (0, 63, -64), "sizes of the cache"),
        ("_ring", "rolling", (0, 63, -64, 2**20), "sizes of the cache"),
        ("_ring", "prompt", (-1, 40, 2**31 - 1), "sizes of the cache"),
        ("_ring", "keys", (None,), "sizes of the cache"),
        ("_ring", "next_position", (None,), "sizes of the cache"),
    ],
)
def test_sizes_that_do_not_belong_together_are_refused(
    part: str, field: str, values: tuple[int | None, ...], message: str
) -> None:
    decoder, prefill, options = prepared("separator")
    decoder.step(prefill, options)
    kept = [*prefill, *options]  # the request points into them
    struct = getattr(decoder, part)
    request = decoder._request
    request.tokens, request.local = prefill.tokens.data_ptr(), prefill.local.data_ptr()
    request.uniforms = request.allowed = None
    before = getattr(struct, field)
    for value in values:
        setattr(struct, field, value)
        assert any(text in message_of(decoder) for text in message.split("|")), value
    setattr(struct, field, before)
    assert message_of(decoder) == ""
    del kept


@pytest.mark.parametrize(("choice", "values"), [("low", (-1, 0, 2**31 - 1)), ("count", (0, -1, 2**31 - 1))])
def test_legal_ids_that_the_table_has_not_are_refused(choice: str, values: tuple[int, ...]) -> None:
    decoder, prefill, _ = prepared("separator")
    decoder.step(prefill)
    request = decoder._request
    request.tokens, request.local = prefill.tokens.data_ptr(), prefill.local.data_ptr()
    for value in values:
        before = getattr(decoder._choices[1][1], choice)
        setattr(decoder._choices[1][1], choice, value)
        assert message_of(decoder) == "the legal ids of an action token are not in the vocabulary"
        setattr(decoder._choices[1][1], choice, before)


def test_a_refused_step_changes_nothing() -> None:
    decoder, prefill, options = prepared("decoder")
    decoder.step(prefill, options)
    decoder._next_position[1] = -7
    before = decoder._index.clone(), decoder._next_position.clone(), decoder._kv.clone()
    with pytest.raises(ValueError, match="the next position of an environment is out of range"):
        decoder.step(prefill, options)
    after = decoder._index, decoder._next_position, decoder._kv
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    decoder, prefill, options = prepared("decoder")
    with pytest.raises(ValueError, match="the temperature must be positive"):
        decoder.step(prefill, options._replace(temperature=torch.tensor(temperature)))


def test_a_patch_without_pixels_is_refused() -> None:
    decoder, prefill, _ = prepared("separator")
    tokens = prefill.tokens.clone()
    tokens[0, 0] = PATCH
    with pytest.raises(ValueError, match="0 patches for 1 places"):
        decoder.step(prefill._replace(tokens=tokens))


def test_prompts_for_an_environment_that_is_not_there_are_refused() -> None:
    decoder, prefill, _ = prepared("separator")
    prompts = prefill._replace(tokens=torch.full((1, 3), PAD), local=torch.full((1, 3), -1))
    with pytest.raises(ValueError, match="envs must be environments"):
        decoder.prefill_prefix(torch.arange(9) == 5, prompts)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("index", (-1, 400, 2**31 - 1), "a position has no rotary angles"),
        ("first", (-1, 200, 2**31 - 1, -(2**31)), "the first recent key"),
        ("prefix_end", (121, 2**31 - 1), "the prefix keys"),
        ("prefix_first", (-1, -(2**31)), "the prefix keys"),
    ],
)
def test_attention_beyond_the_sequences_is_refused(field: str, values: tuple[int, ...], message: str) -> None:
    config = dataclasses.replace(GatoConfig.nano(), context=64, heads=2, width=64)
    attention = CpuAttention.prepare(config, random_sequences(0, 120, prompts=(7,)).visibility(64))
    fields = ("index", "segment", "first", "until", "prefix_first", "prefix_end")
    arrays = dict(zip(fields, attention.buffers, strict=False))
    arrays["prefix_end"][0, 10] = 3
    qkv = torch.randn(2, 120, 3, 2, 32)
    attention.attend(qkv)
    for value in values:
        before = arrays[field][0, 10].clone()
        arrays[field][0, 10] = value
        with pytest.raises(ValueError, match=message):
            attention.attend(qkv)
        arrays[field][0, 10] = before


@pytest.mark.parametrize(
    "field", ["batch", "length", "heads", "size", "context", "threads", "positions", "until", "cos"]
)
def test_attention_of_no_shape_is_refused(field: str) -> None:
    config = dataclasses.replace(GatoConfig.nano(), context=64, heads=2, width=64)
    attention = CpuAttention.prepare(config, random_sequences(0, 120).visibility(64))
    compiled, qkv, y = cpu_attention._compiled(), torch.randn(2, 120, 3, 2, 32), torch.empty(2, 120, 2, 32)
    many = (1025, 2**31 - 1) if field == "threads" else ()
    for value in (None,) if field in ("until", "cos") else (0, -1, -(2**31), *many):
        before = getattr(attention.inputs, field)
        setattr(attention.inputs, field, value)
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (qkv, y, torch.empty(2, 2, 120))]
        assert compiled.gato_attend(ctypes.byref(attention.inputs), 0, *pointers) != 0
        setattr(attention.inputs, field, before)


@pytest.mark.parametrize(
    "qkv", [torch.zeros(1, 120, 3, 2, 32), torch.zeros(2, 119, 3, 2, 32), torch.zeros(2, 120, 3, 2, 32).half()]
)
def test_attention_of_other_tensors_is_refused(qkv: torch.Tensor) -> None:
    config = dataclasses.replace(GatoConfig.nano(), context=64, heads=2, width=64)
    attention = CpuAttention.prepare(config, random_sequences(0, 120).visibility(64))
    with pytest.raises(ValueError, match=r"float32 or bfloat16 \[2, 120, 3, 2, 32\] fits"):
        attention.attend(qkv)


@pytest.mark.parametrize("module", [cpu_decoder, cpu_attention])
def test_another_abi_or_other_structs_are_not_loaded(module: object) -> None:
    source = module.SOURCE  # type: ignore[attr-defined]
    structs = cpu_decoder.STRUCTS if module is cpu_decoder else (cpu_attention._AttentionInputs,)
    purpose, version = "a test", module.ABI  # type: ignore[attr-defined]
    assert abi.load(source, purpose, version, structs)
    with pytest.raises(OSError, match=f"ABI {version}, and Python has {version + 1}"):
        abi.load(source, purpose, version + 1, structs)
    for wrong in (structs[:-1], (*structs, structs[0]), (*structs[:-1], Other)):
        with pytest.raises(OSError, match="compiled with other structs"):
            abi.load(source, purpose, version, wrong)


def test_a_decoder_of_a_failed_step_goes_on() -> None:
    config = dataclasses.replace(FLAT, **LAYOUTS["hidden"])
    decoder, prefill, options = prepared("hidden")
    expected = CpuDecoder(harsh(config), legal_for(config))
    expected.reset(2, prefill.tokens.shape[1], 3)
    with pytest.raises(ValueError, match="uniforms"):
        decoder.step(prefill, options._replace(uniforms=torch.ones(2, 2, dtype=torch.float64)))
    assert torch.equal(decoder.step(prefill, options), expected.step(prefill, options))
