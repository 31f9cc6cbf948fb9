"""Threads of the CPU decoder: few steps are worth more than one, whatever PyTorch's own setting is."""

import pytest
import torch

from gato_agent.inference.decoders import cpu_decoder
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.threads import threads_for, torch_threads
from gato_agent.model.config import GatoConfig
from tests.helpers.harsh import harsh
from tests.helpers.native_core import FLAT, legal_for


@pytest.fixture
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)


@pytest.mark.parametrize(
    ("size", "num_envs", "threads"),
    [
        ("nano", 1, 1),
        ("nano", 32, 1),
        ("tiny", 1, 1),
        ("tiny", 10, 1),
        ("tiny", 1024, 8),
        ("small", 1, 1),
        ("large", 1, 8),
    ],
)
@pytest.mark.usefixtures("eight_threads")
def test_a_step_takes_the_threads_that_it_is_worth(size: str, num_envs: int, threads: int) -> None:
    assert threads_for(GatoConfig.named(size), num_envs) == threads


@pytest.mark.usefixtures("eight_threads")
def test_the_number_that_a_user_gives_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, threads in ((None, 1), (1, 1), (3, 3)):
        decoder = CpuDecoder(harsh(FLAT), legal_for(FLAT), "float32", given)
        decoder.reset(1, 3)
        assert decoder._ring.threads == threads


def test_pytorch_has_its_own_number_again() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert cpu_decoder.WORK > 0
