"""Calls of the compiled C++ that cover its code: decode loops, attention, and requests that it must refuse.

`python -m tests.helpers.native_core` runs all of them in a process of its own, for builds with sanitizers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.decoder import Legal, Precision, Prefill, StepOptions
from gato_agent.model.config import GatoConfig
from gato_agent.model.cpu_attention import CpuAttention
from gato_agent.native.abi import check
from gato_agent.tokens.space_tokenizer import BINS, VALUES
from tests.helpers.driving import OBSERVATION, Driver, observe
from tests.helpers.harsh import harsh
from tests.helpers.sequences import random_sequences
from tests.helpers.shapes import LAYOUTS

FLAT = GatoConfig(2, 4, 64, 128, 40, 64, (32, 64), 16)  # heads of 16
LAYERS = GatoConfig(2, 2, 256, 512, 100, 64, (32, 64), 16)  # heads of 128
NUMBERS = [-(2**63), -(2**40), -(2**31), -4, -3, -2, -1, 0, 1, 3, 2**15, 2**31 - 1, 2**40, 2**63 - 1]


def legal_for(config: GatoConfig) -> Legal:
    """Two action tokens: choices and bins."""
    vocabulary = config.vocabulary
    return [(vocabulary.discrete, vocabulary.discrete + 9), (vocabulary.continuous, vocabulary.continuous + BINS)]


def random_options(generator: torch.Generator, num_envs: int, legal: Legal) -> StepOptions:
    """Greedy, sampled, masked or forced options of a step."""
    widths = [high - low for low, high in legal]
    kind = int(torch.randint(0, 5, (), generator=generator))
    uniforms = torch.rand(num_envs, len(legal), generator=generator, dtype=torch.float64) if kind in (1, 2) else None
    masks = [torch.rand(num_envs, width, generator=generator) < 0.3 for width in widths]
    for mask in masks:
        mask[:, 0] |= ~mask.any(1)
    forced = torch.stack([torch.randint(*ids, (num_envs,), generator=generator) for ids in legal], 1)
    return StepOptions(
        uniforms, torch.tensor(0.7, dtype=torch.float64), forced if kind == 4 else None,
        torch.cat(masks, 1) if kind in (2, 3) else None, marginal=kind == 0,
    )  # fmt: skip


def decode(layout: str, precision: Precision, config: GatoConfig = FLAT, steps: int = 30, threads: int = 1) -> None:
    """A decode loop with prompts, masks, sampling, resets and rewinds, around the window and on."""
    model = harsh(dataclasses.replace(config, **LAYOUTS[layout]))
    legal, generator = legal_for(config), torch.Generator().manual_seed(0)
    driver = Driver(model, 3, lambda m, ids: CpuDecoder(m, ids, precision, threads), 5, legal)
    for t in range(steps):
        start = torch.rand(3, generator=generator) < (1 if t == 0 else 0.1)
        options = random_options(generator, 3, legal)
        action = driver.step(*observe(model.config, (3,), generator), start, options)
        assert all(bool(((low <= ids) & (ids < high)).all()) for (low, high), ids in zip(legal, action.T, strict=True))
        if t % 7 == 6:
            driver.decoder.rewind(2)


def attend(size: int, dtype: torch.dtype) -> None:
    """Attention forward and backward, with prompts beyond the context and keys that are hidden."""
    config = dataclasses.replace(GatoConfig.nano(), context=64, heads=2, width=2 * size)
    shown = random_sequences(0, 300, prompts=(0, 7, 10), hidden=3)
    qkv = torch.randn(*shown.tokens.shape, 3, 2, size).to(dtype).requires_grad_()
    y = CpuAttention.prepare(config, shown.visibility(64)).attend(qkv)
    y.backward(torch.randn_like(y))
    assert bool(y.isfinite().all())
    assert qkv.grad is not None and bool(qkv.grad.isfinite().all())


def prepared(layout: str) -> tuple[CpuDecoder, Prefill, StepOptions]:
    """A decoder of two environments, a step that it takes, and options that are used all at once."""
    config = dataclasses.replace(FLAT, **LAYOUTS[layout])
    legal = legal_for(config)
    decoder = CpuDecoder(harsh(config), legal)
    decoder.reset(2, OBSERVATION + 2, 3)
    tokens = torch.randint(0, config.vocabulary.size, (2, OBSERVATION + 2))
    groups = None
    if config.values_per_token > 1:
        tokens[:, 1] = VALUES
        groups = torch.zeros(2, config.values_per_token, dtype=torch.int16)
    options = StepOptions(
        torch.rand(2, 2, dtype=torch.float64), torch.tensor(1.0), None,
        torch.ones(2, sum(high - low for low, high in legal), dtype=torch.bool),
    )  # fmt: skip
    return decoder, Prefill(tokens, torch.zeros_like(tokens), None, None, groups), options


def outcome(call: Callable[[], Tensor], legal: Legal) -> str:
    """Message of the ValueError that a call raises; empty if it returned legal ids."""
    try:
        action = call()
    except ValueError as error:
        return str(error)
    assert all(bool(((low <= ids) & (ids < high)).all()) for (low, high), ids in zip(legal, action.T, strict=True))
    return ""


def changed(tensor: Tensor, rng: np.random.Generator) -> Tensor:
    """A copy with another number, shape or dtype."""
    kind = rng.integers(0, 5)
    if kind == 0:
        return tensor[:, : rng.integers(0, tensor.shape[1] + 1)]
    if kind == 1:
        return tensor.repeat(*rng.integers(0, 4, 2).tolist())
    if kind == 2:
        return [tensor.int(), tensor.double(), tensor.flatten(), tensor[:1], tensor.T][rng.integers(0, 5)]
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    if tensor.numel():
        mutate(tensor, rng)
    return tensor


def mutate(array: Tensor, rng: np.random.Generator, within: int = 2**31) -> None:
    """Put a bad number into one of the first elements of an array, in place; a mask is emptied."""
    place = rng.integers(0, min(array.numel(), within))
    if array.dtype in (torch.bool, torch.uint8):
        array.zero_()
    elif array.is_floating_point():
        array.view(-1)[place] = [float("nan"), float("inf"), 1.0, -0.1][rng.integers(0, 4)]
    else:
        limit = torch.iinfo(array.dtype)
        array.view(-1)[place] = min(max(NUMBERS[rng.integers(0, len(NUMBERS))], limit.min), limit.max)


def fuzz_wrapper(layout: str, count: int) -> int:
    """Random bad requests through `CpuDecoder`: each ends in a ValueError or legal ids. Returns the refused ones."""
    rng, refused = np.random.default_rng(0), 0
    decoder, prefill, options = prepared(layout)
    fields = [name for name in ("tokens", "local", "value_groups") if getattr(prefill, name) is not None]
    for _ in range(count):
        seen, chosen = prefill, options
        for name in rng.choice(fields, rng.integers(0, 2)).tolist():
            seen = seen._replace(**{name: changed(getattr(seen, name), rng)})
        if seen is prefill or rng.random() < 0.2:
            chosen = changed_options(chosen, rng)
        call = (
            (lambda s=seen, o=chosen: decoder.step(s, o)) if rng.random() < 0.8 else (lambda s=seen: prefix(decoder, s))
        )
        refused += outcome(call, legal_for(FLAT)) != ""
        if rng.random() < 0.1:
            decoder.rewind(int(rng.integers(0, 30)))
            decoder.reset_envs(torch.ones(2, dtype=torch.bool), int(NUMBERS[rng.integers(0, len(NUMBERS))]))
            refused += outcome(lambda: decoder.step(prefill, options), legal_for(FLAT)) != ""
            decoder.reset_envs(torch.ones(2, dtype=torch.bool), 3)
    assert outcome(lambda: decoder.step(prefill, options), legal_for(FLAT)) == ""
    return refused


def prefix(decoder: CpuDecoder, prompts: Prefill) -> Tensor:
    """Give both environments a prompt; the ids of no action."""
    decoder.prefill_prefix(torch.ones(2, dtype=torch.bool), prompts)
    return torch.tensor([[low for low, _ in legal_for(FLAT)]])


def changed_options(options: StepOptions, rng: np.random.Generator) -> StepOptions:
    """Options with one field changed."""
    name = ("uniforms", "allowed", "temperature", "forced")[rng.integers(0, 4)]
    if name == "temperature":
        return options._replace(temperature=torch.tensor([0.0, -1.0, float("nan"), float("inf")][rng.integers(0, 4)]))
    if name == "forced":
        ids = torch.tensor([[low for low, _ in legal_for(FLAT)]] * 2)
        return options._replace(forced=changed(ids, rng))
    return options._replace(**{name: changed(getattr(options, name), rng)})


COUNTS = ("num_envs", "count", "actions", "marginal", "patch_count", "group_count")
POINTERS = ("envs", "tokens", "local", "value_groups", "choices", "chosen")


def fuzz_ctypes(layout: str, count: int) -> set[str]:
    """Random bad requests to the compiled step itself, whose arrays are long enough. Returns all messages."""
    rng = np.random.default_rng(1)
    decoder, prefill, options = prepared(layout)
    tokens, local, _, _, groups = prefill
    decoder.step(prefill, options)
    room = [torch.cat((part.flatten(), part.new_zeros(1000))) for part in (tokens, local)]
    arrays: dict[str, Tensor] = dict(zip(("tokens", "local"), room, strict=True))
    arrays |= {"uniforms": options.uniforms.clone(), "allowed": options.allowed.to(torch.uint8)}  # type: ignore[union-attr]
    arrays |= {"envs": torch.arange(2), "forced": torch.tensor([[low for low, _ in legal_for(FLAT)]] * 2)}
    arrays |= {} if groups is None else {"value_groups": groups.clone()}
    request, messages = decoder._request, set()
    fresh = {name: getattr(request, name) for name, _ in request._fields_}
    for _ in range(count):
        decoder.reset_envs(torch.ones(2, dtype=torch.bool), 3)
        used = {name: value.clone() for name, value in arrays.items()}
        if rng.random() < 0.5:
            del used["forced"]
        values: dict[str, Any] = fresh | {name: value.data_ptr() for name, value in used.items()}
        kind = rng.integers(0, 4)
        if kind == 0:
            values[COUNTS[rng.integers(0, len(COUNTS))]] = (
                np.array(NUMBERS[rng.integers(0, len(NUMBERS))]).astype(np.int32).item()
            )
        elif kind == 1:
            values[POINTERS[rng.integers(0, len(POINTERS))]] = None
        elif kind == 2:
            mutate(list(used.values())[rng.integers(0, len(used))], rng, 12)
        else:
            decoder._next_position[rng.integers(0, 2)] = NUMBERS[rng.integers(0, len(NUMBERS))]
        for name, value in values.items():
            setattr(request, name, value)
        messages.add(message_of(decoder))
    return messages


def message_of(decoder: CpuDecoder) -> str:
    """Message of the compiled step's error code for the decoder's request; empty if it ran."""
    code = decoder._compiled.gato_step(decoder._model_at, decoder._ring_at, decoder._request_at)
    try:
        check(decoder._compiled, code)
    except ValueError as error:
        return str(error)
    return ""


def main() -> None:
    """Run everything."""
    for layout in LAYOUTS:
        for precision in get_args(Precision):
            decode(layout, precision)
        fuzz_wrapper(layout, 300)
        fuzz_ctypes(layout, 300)
    decode("decoder", "int8", LAYERS, 40, threads=2)
    for size in (32, 128):
        for dtype in (torch.float32, torch.bfloat16):
            attend(size, dtype)
    print("all ran")


if __name__ == "__main__":
    main()
