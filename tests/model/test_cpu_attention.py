"""Compiled attention is the model's: within episodes and context, towards prompts, forward and backward."""

import dataclasses

import pytest
import torch

from gato_agent.model.config import GatoConfig
from gato_agent.model.cpu_attention import CpuAttention, fits
from gato_agent.model.gato import Gato
from tests.helpers.sequences import Sequences, attention, random_sequences

NANO = dataclasses.replace(GatoConfig.nano(), context=64, layers=2)
CASES = [
    (130, 32, {"prompts": (0,), "hidden": 0}),
    (300, 32, {"prompts": (0, 7, 10), "hidden": 3}),
    (257, 128, {"prompts": (0, 16, 40), "hidden": 0}),
    (400, 32, {"prompts": (0,), "hidden": 5}),
]


def sequences(case: tuple[int, int, dict[str, object]], seed: int = 0) -> Sequences:
    length, _, options = case
    return random_sequences(seed, length, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_it_is_what_every_score_gives(
    case: tuple[int, int, dict[str, object]], dtype: torch.dtype, atol: float
) -> None:
    torch.manual_seed(0)
    size, shown = case[1], sequences(case)
    config = dataclasses.replace(NANO, heads=2, width=2 * size)
    backend = CpuAttention.prepare(config, shown.visibility(config.context))
    qkv = torch.randn(*shown.tokens.shape, 3, 2, size).to(dtype).requires_grad_()
    y, expected = backend.attend(qkv), attention(qkv.double(), shown, config.context)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, atol=atol, rtol=atol)
    g = torch.randn_like(y)
    (actual,), (right,) = torch.autograd.grad(y, qkv, g), torch.autograd.grad(expected, qkv, g.double())
    torch.testing.assert_close(actual, right, atol=atol, rtol=atol)


@pytest.mark.parametrize("case", CASES)
def test_a_model_trains_as_without(case: tuple[int, int, dict[str, object]]) -> None:
    torch.manual_seed(0)
    shown, model, actual = sequences(case), Gato(NANO).train(), []
    for model.compiled in (False, True):
        hidden = model(shown.tokens, **shown.arguments())
        hidden.square().mean().backward()
        actual.append((hidden.detach(), model.blocks[0].attention.qkv.weight.grad))
        model.zero_grad()
    for a, b in zip(*actual, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_sums_do_not_depend_on_the_threads() -> None:
    torch.manual_seed(0)
    shown = sequences(CASES[1])
    qkv, before, actual = torch.randn(*shown.tokens.shape, 3, 4, 32, requires_grad=True), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = CpuAttention.prepare(NANO, shown.visibility(64)).attend(qkv)
            actual.append((y, *torch.autograd.grad(y.sum(), qkv)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*actual, strict=True))


def test_it_is_for_cpus_and_heads_of_whole_vectors() -> None:
    assert fits(NANO, "cpu")
    assert not fits(NANO, "cuda")
    assert not fits(dataclasses.replace(NANO, heads=8), "cpu")  # 16 wide
    assert all(GatoConfig.named(size).head_size % 32 == 0 for size in ("nano", "tiny", "small", "baseline", "large"))
