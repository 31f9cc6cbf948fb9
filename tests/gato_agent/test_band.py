"""Compiled attention is the model's: within episodes and context, towards prompts, forward and backward."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gato_agent.band import Band, fits
from gato_agent.config import GatoConfig
from gato_agent.model import Gato
from gato_agent.rotary import angles_of, rotate
from gato_agent.spaces import PAD

NANO = dataclasses.replace(GatoConfig.nano(), context=64, layers=2)

Windows = tuple[Tensor, Tensor, Tensor, Tensor]  # tokens, segment, index, pinned


def packed(length: int, ends: list[list[int]], prompts: list[list[int]]) -> Windows:
    """Windows of episodes that end there and begin with prompts of so many tokens, of which some are left out."""
    tokens = torch.randint(1, 500, (len(ends), length))
    tokens[torch.rand(tokens.shape) < 0.05] = PAD
    segment, index, pinned = torch.zeros(3, len(ends), length, dtype=torch.int64)
    for lane, (bounds, prompt) in enumerate(zip(ends, prompts, strict=True)):
        for number, (begin, end) in enumerate(pairwise([0, *bounds])):
            place = torch.arange(end - begin)
            segment[lane, begin:end], pinned[lane, begin:end] = number, prompt[number]
            index[lane, begin:end] = place + 3 * (place >= prompt[number] // 2) * (prompt[number] > 0)
    return tokens, segment, index, pinned


def dense(qkv: Tensor, windows: Windows, context: int) -> Tensor:
    """What SPEC says, with every score."""
    tokens, segment, index, pinned = windows
    length, size = qkv.shape[1], qkv.shape[4]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    k = rotate(k, *angles_of(index, size, k.dtype))
    near = rotate(q, *angles_of(index, size, q.dtype)) @ k.mT
    far = rotate(q, *angles_of(index.clamp(max=context - 1), size, q.dtype)) @ k.mT
    before = torch.arange(length)[:, None] >= torch.arange(length)
    same = (segment[:, :, None] == segment[:, None]) & before
    recent = same & (index[:, :, None] - index[:, None] < context - pinned[:, :, None])
    prompt = same & ~recent & (index[:, None] < pinned[:, :, None])
    shown = (tokens != PAD)[:, None]
    recent = recent & shown | torch.eye(length, dtype=torch.bool)
    scores = torch.where(recent[:, None], near, torch.where((prompt & shown)[:, None], far, -torch.inf))
    return torch.matmul((scores * size**-0.5).softmax(-1), v).transpose(1, 2)


CASES = [
    (130, 32, [[130]], [[0]]),
    (300, 32, [[70, 270, 275, 276, 300], [200, 300]], [[0, 10, 0, 0, 7], [7, 0]]),
    (257, 128, [[224, 257], [257]], [[16, 0], [40]]),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_it_is_what_every_score_gives(
    case: tuple[int, int, list[list[int]], list[list[int]]], dtype: torch.dtype, atol: float
) -> None:
    torch.manual_seed(0)
    length, size, ends, prompts = case
    windows = tokens, segment, index, pinned = packed(length, ends, prompts)
    config = dataclasses.replace(NANO, heads=2, width=2 * size)
    cos, sin = (x.squeeze(0) for x in angles_of(torch.arange(300), size, torch.float32))
    band = Band.of(config, tokens, segment, index, pinned, (cos, sin))
    qkv = torch.randn(len(ends), length, 3, 2, size).to(dtype).requires_grad_()
    y, expected = band.attend(qkv), dense(qkv.double(), windows, config.context)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, atol=atol, rtol=atol)
    g = torch.randn_like(y)
    (found,), (right,) = torch.autograd.grad(y, qkv, g), torch.autograd.grad(expected, qkv, g.double())
    torch.testing.assert_close(found, right, atol=atol, rtol=atol)


def test_a_model_trains_as_without() -> None:
    torch.manual_seed(0)
    model = Gato(NANO).train()
    tokens, segment, _, _ = packed(200, [[50, 200], [150, 200]], [[0, 0], [0, 0]])
    found = []
    for model.compiled in (False, True):
        hidden = model(tokens, segment=segment)
        hidden.square().mean().backward()
        found.append((hidden.detach(), model.blocks[0].attention.qkv.weight.grad))
        model.zero_grad()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_sums_do_not_depend_on_the_threads() -> None:
    torch.manual_seed(0)
    tokens, segment, index, pinned = packed(300, [[100, 300], [300]], [[0, 10], [0]])
    cos, sin = (x.squeeze(0) for x in angles_of(torch.arange(303), 32, torch.float32))
    qkv, before, found = torch.randn(2, 300, 3, 4, 32, requires_grad=True), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = Band.of(NANO, tokens, segment, index, pinned, (cos, sin)).attend(qkv)
            found.append((y, *torch.autograd.grad(y.sum(), qkv)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_it_is_for_cpus_and_heads_of_whole_vectors() -> None:
    assert fits(NANO, "cpu")
    assert not fits(NANO, "cuda")
    assert not fits(dataclasses.replace(NANO, heads=8), "cpu")  # 16 wide
    assert all(GatoConfig.named(size).head_size % 32 == 0 for size in ("nano", "tiny", "small", "baseline", "large"))
