"""Play on a GPU: recorded steps are exact, need no new memory, and choose what the CPU chooses."""

import copy
import dataclasses
import gc
import logging

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.bench.step import BenchConfig, bench
from gato_agent.commands.bench.step_case import BenchCase
from gato_agent.inference.agent import Agent
from gato_agent.inference.decoders.cuda_graph_decoder import GraphDecoder
from gato_agent.inference.decoders.decoder import Decoder, Legal, Precision, Prefill, StepOptions
from gato_agent.inference.decoders.make_decoder import make_decoder
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.config import SIZES, GatoConfig
from gato_agent.model.gato import Gato
from tests.helpers.driving import Driver, legal_for, play, sampled, worst_error
from tests.helpers.harsh import harsh
from tests.helpers.shapes import LAYOUTS, NANO

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def shaped(layout: str, **fields: int) -> Gato:
    return harsh(dataclasses.replace(NANO, **LAYOUTS[layout], **fields))


def on_gpu(model: Gato, legal: Legal, precision: Precision = "float32") -> GraphDecoder:
    """Plays with a copy there."""
    return GraphDecoder(copy.deepcopy(model).float().to("cuda"), legal, precision)


@layouts
@pytest.mark.parametrize(("context", "prompt", "num_envs", "steps"), [
    (1024, 0, 16, 625), (50, 0, 5, 300), (200, 70, 4, 200)
])  # fmt: skip
def test_replayed_equals_uncached_on_the_cpu(
    caplog: pytest.LogCaptureFixture, layout: str, context: int, prompt: int, num_envs: int, steps: int
) -> None:
    """10,000 environment steps of the first, through resets, rewinds, evictions and all buckets."""
    model = shaped(layout, context=context).double()
    with caplog.at_level(logging.WARNING):
        worst, _ = worst_error(model, Driver(model, num_envs, on_gpu, prompt), steps)
    assert worst < 1e-5
    assert not caplog.messages  # CUDA graphs were used


@layouts
@pytest.mark.parametrize(("context", "prompt"), [(50, 0), (200, 70)])
def test_bfloat16_is_near_through_resets_and_evictions(layout: str, context: int, prompt: int) -> None:
    model = shaped(layout, context=context).double()
    driver = Driver(model, 4, lambda model, legal: on_gpu(model, legal, "bfloat16"), prompt)
    assert worst_error(model, driver, 200)[0] < 0.15


@layouts
def test_it_samples_what_the_cpu_samples(layout: str) -> None:
    """Of 40 steps of two environments and two tokens, one number may lie between two shares."""
    model = shaped(layout, context=50)
    here = play(model, TorchDecoder, 2, 40, sampled(2, 2))
    there = play(model, on_gpu, 2, 40, sampled(2, 2))
    assert torch.equal(here.actions[:5], there.actions[:5])


def job_steps(decoder: Decoder, job: BenchCase, steps: int) -> int:
    """Step with random observations; returns how many pieces of memory the last half of them asked for."""
    decoder.reset(job.n_envs, max(job.passes[0], job.layout.rewound))
    decoder.reset_envs(torch.ones(job.n_envs, dtype=torch.bool))
    asked = 0
    generator = torch.Generator().manual_seed(0)
    for t in range(steps):
        decoder.reset_envs(torch.rand(job.n_envs, generator=generator) < 0.01)
        asked = torch.cuda.memory_stats()["allocation.all.allocated"] if t == steps // 2 else asked
        decoder.step(job.prefill())
    return int(torch.cuda.memory_stats()["allocation.all.allocated"] - asked)


@layouts
def test_no_memory_is_asked_for_over_ten_thousand_steps(layout: str) -> None:
    config = dataclasses.replace(NANO, context=128, **LAYOUTS[layout])
    job = BenchCase(config, 4, 2, 2, "cuda")
    decoder = make_decoder(Gato(config).to("cuda").eval(), job.legal, "bfloat16")
    assert isinstance(decoder, GraphDecoder)
    assert job_steps(decoder, job, 20_000) == 0


def test_a_capture_that_fails_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    """A step that cannot be captured runs as it is, and later steps are unaffected."""
    decoder, there = on_gpu(harsh(NANO), legal_for(NANO)), torch.cuda.current_stream()

    def decode(prefill: Prefill, options: StepOptions) -> Tensor:
        action = GraphDecoder.decode(decoder, prefill, options)
        action.sum().item()  # waits for the device, which is not allowed in a recording
        return action

    decoder.decode = decode  # type: ignore[method-assign]
    decoder.reset(2, 6)
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    with caplog.at_level(logging.WARNING):
        decoder.step(Prefill(tokens, tokens - 1, None, None))
    assert "playing without CUDA graphs" in caplog.text
    assert torch.cuda.current_stream() == there
    assert torch.rand(1, device="cuda").item() < 1


def test_decoders_live_and_die_beside_each_other() -> None:
    """Recordings of one must not lean on memory of another."""
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    seen = Prefill(tokens, tokens - 1, None, None)

    def made() -> GraphDecoder:
        decoder = on_gpu(harsh(NANO), legal_for(NANO))
        decoder.reset(2, 6)
        return decoder

    first, second = made(), made()
    expected = [first.step(seen) for _ in range(5)]
    found = [second.step(seen) for _ in range(3)]
    del first
    gc.collect()
    torch.cuda.empty_cache()
    made().step(seen)
    found += [second.step(seen) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_images_are_played_from_as_on_a_cpu() -> None:
    camera, hand = Box(0, 255, (40, 56, 3), np.uint8), Discrete(5)
    task, space = TrainedTask("Toy-v0", camera, hand), batch_space(camera, 3)
    space.seed(0)
    images = [space.sample() for _ in range(12)]

    def actions(device: str) -> NDArray[np.int64]:
        agent = Agent(Checkpoint(harsh(NANO).to(device), {task.id: task}), task, device=device, temperature=0.0)
        return np.stack([agent.act(image) for image in images])

    assert np.array_equal(actions("cpu"), actions("cuda"))


def test_it_follows_what_it_is_told() -> None:
    model, legal = harsh(NANO).to("cuda"), legal_for(NANO)
    decoder = GraphDecoder(model, legal)
    decoder.reset(2, 6)
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    wanted = torch.tensor([[1, 700], [0, 20]]) + torch.tensor([low for low, _ in legal])
    for _ in range(4):
        action = decoder.step(Prefill(tokens, tokens - 1, None, None), StepOptions(forced=wanted))
        assert torch.equal(action, wanted)


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
    rows = bench(BenchConfig(size=("nano",), task=("2/1",), context=32, repeats=3, device="cuda"))
    names = [row.decoder for row in rows]
    assert names[:2] == ["CUDA graphs float32", "CUDA graphs bfloat16"]
    assert all(row.bound > 0 for row in rows)


@pytest.mark.parametrize("size", SIZES)
def test_all_named_sizes_can_be_captured(caplog: pytest.LogCaptureFixture, size: str) -> None:
    config = GatoConfig.named(size)
    job = BenchCase(config, 17, 7, 1, "cuda")
    with torch.device("cuda"):
        model = Gato(config).eval()
    with caplog.at_level(logging.WARNING):
        job_steps(make_decoder(model, job.legal, "bfloat16"), job, 50)
    assert not caplog.messages
