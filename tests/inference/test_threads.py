"""Threads of the CPU decoder: few steps are worth more than one, whatever PyTorch's own setting is."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.envs.errors import UsageError
from gato_agent.inference.agent import Agent
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


def cart_pole(**options: object) -> Agent:
    checkpoint = Checkpoint.load(None)
    return Agent(checkpoint, find_task(checkpoint, "CartPole-v1"), **options)  # type: ignore[arg-type]


def test_threads_that_share_an_agent_take_turns() -> None:
    """Each batch has another number of environments, so that a step of one must not meet the reset of another."""
    agent, alone, wrong = cart_pole(), cart_pole(), list[str]()
    observations = np.random.default_rng(0).normal(0, 0.1, (40, 4)).astype(np.float32)
    expected = [alone.predict(observations[:n], episode_start=np.ones(n, bool))[0] for n in range(1, 41)]

    def play(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for n in rng.integers(1, 41, 60).tolist():
            actions, _ = agent.predict(observations[:n], episode_start=np.ones(n, bool))
            if not np.array_equal(actions, expected[n - 1]):
                wrong.append(f"{n} environments")

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_process_acts_with_the_threads_that_it_has() -> None:
    """OpenMP's threads are not there in a child, which would wait for them."""
    agent, observation = cart_pole(num_threads=2), np.zeros((64, 4), np.float32)
    expected = agent.act(observation, np.ones(64, bool))
    if (child := os.fork()) == 0:
        os._exit(0 if np.array_equal(agent.act(observation, np.ones(64, bool)), expected) else 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child still waits")


@pytest.mark.parametrize("count", [0, -1, 1025, 10**6, 2**40, 10**30])
def test_a_number_of_threads_that_no_process_can_start_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"--num-threads {count}: at"):
        cart_pole(num_threads=count)
