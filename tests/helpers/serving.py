"""Policy servers for tests: in this process with any agent, or by the command in a process of its own."""

import asyncio
import dataclasses
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from gymnasium.vector.utils import batch_space

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.spaces.flatten import Columns, columns
from gato_agent.model.config import GatoConfig
from gato_agent.serving.server import PolicyServer, ServerOptions
from gato_agent.serving.slot_agent import SlotAgent
from gato_agent.tokens.text_tokenizer import TextTokenizer
from tests.helpers.harsh import harsh
from tests.helpers.paths import ROOT

SMALL = dataclasses.replace(GatoConfig.nano(), context=96, layers=2)
RICH = Dict({"camera": Box(0, 255, (32, 20, 3), np.uint8), "goal": Tuple((Discrete(3), Box(-np.inf, np.inf, (2,))))})
HANDS = Dict({"grip": Discrete(2, start=1), "move": Box(-2, 3, (2,)), "keys": MultiDiscrete([3, 4])})


def checkpoint_of(task: TrainedTask) -> Checkpoint:
    return Checkpoint(
        harsh(SMALL), {task.id: task}, TextTokenizer.train(["go to the red ball"], 300), name="test weights"
    )


def sampled(space: Space[Any], count: int, seed: int) -> Columns:
    many = batch_space(space, count)
    many.seed(seed)
    return columns(space, many.sample())


class Served(NamedTuple):
    """A server in this process: its address, and the lines that it reports."""

    address: str
    server: PolicyServer
    lines: "Queue[str]"


@contextmanager
def served(agent: SlotAgent, num_envs: int = 4, **options: Any) -> Iterator[Served]:
    """Serve an agent from a thread of this process."""
    agent.reset(num_envs)
    lines: Queue[str] = Queue()
    server = PolicyServer(agent, ServerOptions(port=0, **options), lines.put)
    loop = asyncio.new_event_loop()
    task = loop.create_task(server.run())

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Served(address_in(lines.get(timeout=30)), server, lines)
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)


def address_in(line: str) -> str:
    """Address that a server reports, of this machine."""
    found = re.search(r"ws://\S+:(\d+)", line)
    assert found, line
    return f"ws://127.0.0.1:{found[1]}"


@contextmanager
def serving(
    folder: Path, *options: str, env: dict[str, str] | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run `gato-agent serve --env CartPole-v1` on a free port; yields its address and process."""
    command = [sys.executable, "-m", "gato_agent", "serve", "--env", "CartPole-v1", "--port", "0", *options]
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (folder / "errors").read_text()
            yield address_in(line), process
        finally:
            process.terminate()
            process.communicate(timeout=30)
