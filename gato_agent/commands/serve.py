"""The verb `serve`: a policy server."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass

import torch

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.envs.errors import at_least
from gato_agent.envs.io.console import print_line
from gato_agent.envs.tasks.packages import import_named
from gato_agent.evaluation.option_groups import DecodingArguments
from gato_agent.inference.make_agent import demonstration
from gato_agent.inference.options import DecodingOptions, resolve_device


@dataclass(frozen=True)
class ServerArguments:
    """Task, address and limits."""

    env: str
    """Environment id of the task; the environment itself need not be installed."""
    checkpoint: str | None = None
    """Checkpoint: run folder or .safetensors file; by default the weights shipped with the package."""
    host: str = "127.0.0.1"
    """Network address to listen on; by default this machine alone reaches it. 0.0.0.0: all, with a token."""
    port: int = 8000
    """TCP port, 0 to 65535; 0: a free one."""
    token: str | None = None
    """Access token that clients must have; by default the environment variable GATO_AGENT_TOKEN, which other users
    of the machine cannot see."""
    n_envs: int = 64
    """Environments of all clients at once, at least 1; each has its own memory."""
    timeout: float = 10.0
    """Deadline of a request in s, above 0: the longest wait for its step. A client that is silent for twice as long is
    dropped."""
    seed: int = 0
    """Random seed of sampled actions, at least 0."""


@dataclass(frozen=True)
class ServeConfig(DecodingArguments, ServerArguments):
    """Serve an agent over websocket to programs elsewhere."""

    def check(self) -> None:
        """Raise UsageError for an option out of range."""
        at_least(1, n_envs=self.n_envs)
        at_least(0, seed=self.seed, port=self.port)
        at_least(0.001, timeout=self.timeout)
        self.check_decoding()


def serve(config: ServeConfig) -> None:
    """Serve until Ctrl+C or SIGTERM.

    Raises:
        UsageError: an option, or an address that is in use or would need a token.
    """
    for module in ("websockets", "msgpack"):
        import_named(module, "serve")
    from gato_agent.serving.server import PolicyServer, ServerOptions
    from gato_agent.serving.slot_agent import SlotAgent

    config.check()
    token = config.token or os.environ.get("GATO_AGENT_TOKEN") or None
    options = ServerOptions(config.host, config.port, token, config.timeout)
    options.check()
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    task = find_task(checkpoint, config.env.rpartition(":")[2])
    decoding: DecodingOptions = {
        "device": device, "temperature": config.temperature, "seed": config.seed, "precision": config.precision,
        "prompt": config.prompt, "num_threads": config.num_threads,
        "demonstration": demonstration(config.demo, task.id, config.prompt),
    }  # fmt: skip
    agent = SlotAgent(checkpoint, task, **decoding)
    agent.reset(config.n_envs)
    agent.warm_up()
    server = PolicyServer(agent, options, print_line)
    try:
        asyncio.run(_until_stopped(server.run()))
    finally:
        served = f"{server.batcher.requests} actions in {server.batcher.steps} steps"
        print_line(f"served {server.clients} clients: {served}")


async def _until_stopped(serving: Coroutine[None, None, None]) -> None:
    """Serve until SIGTERM; raises KeyboardInterrupt after Ctrl+C. Later signals do not interrupt the end."""
    task, stopped = asyncio.create_task(serving), list[signal.Signals]()

    def stop(by: signal.Signals) -> None:
        if not stopped:
            task.cancel()
        stopped.append(by)

    with suppress(NotImplementedError):  # on Windows, where asyncio's own handler cancels this
        for by in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(by, stop, by)
    with suppress(asyncio.CancelledError):
        await task
    if signal.SIGINT in stopped:
        raise KeyboardInterrupt
