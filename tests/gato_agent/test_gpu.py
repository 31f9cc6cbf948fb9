"""Play on a GPU: recorded steps are exact, need no new memory, and choose what the CPU chooses."""

import dataclasses
import logging

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gato_agent.agent import Agent
from gato_agent.bench import BenchConfig, Job, bench
from gato_agent.config import GatoConfig
from gato_agent.decode import Choose, Decoder, Legal, Prefill, Told
from gato_agent.engine import make_decoder
from gato_agent.graphs import GraphDecoder
from gato_agent.model import Gato
from tests.gato_agent.harsh import harsh
from tests.gato_agent.shapes import NANO
from tests.gato_agent.test_cache import Lanes, legal_for, worst_error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on_gpu(model: Gato, legal: Legal) -> Decoder:
    """Weights of its own there; what cannot be recorded is an error here."""
    twin = Gato(model.config).to("cuda").eval()
    twin.load_state_dict(model.state_dict())
    return GraphDecoder(twin, legal)


@pytest.mark.parametrize(("context", "prompt", "lanes", "steps"), [
    (1024, 0, 16, 625), (50, 0, 5, 300), (200, 70, 4, 200)
])  # fmt: skip
def test_replayed_equals_uncached_on_the_cpu(
    caplog: pytest.LogCaptureFixture, context: int, prompt: int, lanes: int, steps: int
) -> None:
    """10,000 environment steps of the first, through resets, evictions and all buckets."""
    model = harsh(dataclasses.replace(NANO, context=context))
    with caplog.at_level(logging.WARNING):
        worst, _ = worst_error(model, Lanes(model, lanes, on_gpu, prompt), steps)
    assert worst < 1e-5
    assert not caplog.messages  # CUDA graphs were used


def job_steps(decoder: Decoder, job: Job, steps: int) -> int:
    """Step with random observations; returns how many pieces of memory the last half of them asked for."""
    decoder.reset(job.lanes, job.passes[0])
    decoder.restart(torch.ones(job.lanes, dtype=torch.bool))
    asked = 0
    for t in range(steps):
        asked = torch.cuda.memory_stats()["allocation.all.allocated"] if t == steps // 2 else asked
        decoder.step(job.prefill(), Choose())
    return int(torch.cuda.memory_stats()["allocation.all.allocated"] - asked)


@pytest.mark.parametrize("shape", [{}, {"pack": 64, "parallel_actions": 32}])
def test_no_memory_is_asked_for_over_ten_thousand_steps(shape: dict[str, int]) -> None:
    config = dataclasses.replace(NANO, context=128, **shape)
    job = Job(config, 4, 2, 2, "cuda")
    decoder = make_decoder(Gato(config).to("cuda").eval(), job.legal, "bfloat16")
    assert isinstance(decoder, GraphDecoder)
    assert job_steps(decoder, job, 20_000) == 0


def test_bfloat16_is_near() -> None:
    model, job = harsh(NANO).to("cuda"), Job(NANO, 4, 1, 4, "cuda")
    exact, near = GraphDecoder(model, job.legal), GraphDecoder(model, job.legal, "bfloat16")
    exact.reset(4, job.passes[0])
    near.reset(4, job.passes[0])
    for _ in range(100):
        seen = job.prefill()
        first, second = exact.step(seen, Choose()), near.step(seen, Choose())
        scale = max(1.0, exact.logits[0].abs().max().item())
        assert (exact.logits[0] - near.logits[0]).abs().max().item() < 0.05 * scale
        assert first.shape == second.shape == (4, 1)


def test_compiled_blocks_compute_the_same() -> None:
    model = harsh(dataclasses.replace(NANO, context=50))

    def compiled(model: Gato, legal: Legal) -> Decoder:
        return GraphDecoder(model.to("cuda"), legal, compiled=True)

    reference = harsh(model.config)
    assert worst_error(reference, Lanes(model, 5, compiled), 100)[0] < 1e-4


def test_it_follows_what_it_is_told() -> None:
    model, legal = harsh(NANO).to("cuda"), legal_for(NANO)
    decoder = GraphDecoder(model, legal)
    decoder.reset(2, 6)
    tokens, wanted = torch.zeros(2, 6, dtype=torch.int64), torch.tensor([[1, 700], [0, 20]])
    for _ in range(4):
        action = decoder.step(Prefill(tokens, tokens - 1, None, None), Told(wanted))
        assert torch.equal(action, wanted + torch.tensor([low for low, _ in legal]))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCarContinuous-v0"])
def test_the_shipped_agent_plays_there_as_it_does_here(env_id: str) -> None:
    def play(device: str) -> NDArray[np.float64]:
        with gym.make(env_id) as env:
            agent = Agent.from_pretrained(None, env, device=device, temperature=0.0)
            observation, _ = env.reset(seed=0)
            state, found = None, []
            for _ in range(150):
                action, state = agent.predict(observation, state)
                observation, _, terminated, _, _ = env.step(action)
                found.append(np.ravel(action).astype(float))
                assert not terminated
        return np.concatenate(found)

    here, there = play("cpu"), play("cuda")
    assert np.abs(here - there).max() < 0.01  # a value between two bins may be either


def test_the_benchmark_has_a_row_for_each_way_to_play() -> None:
    rows = bench(BenchConfig(size=("nano",), task=("2/1",), context=32, repeats=3, device="cuda", compiled=True))
    names = [row.decoder for row in rows]
    assert names[:4] == ["graph float32", "compiled float32", "graph bfloat16", "compiled bfloat16"]
    assert all(row.floor > 0 for row in rows)


def test_all_named_sizes_can_be_recorded(caplog: pytest.LogCaptureFixture) -> None:
    for size in ("tiny", "small"):
        config = GatoConfig.named(size)
        job = Job(config, 17, 7, 1, "cuda")
        decoder = make_decoder(Gato(config).to("cuda").eval(), job.legal, "bfloat16")
        job_steps(decoder, job, 10)
    assert not caplog.messages
