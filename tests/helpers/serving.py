"""Policy servers for tests: in this process with any agent, or by the command in a process of its own."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

from gato_agent.serving.server import PolicyServer, ServerOptions
from gato_agent.serving.slot_agent import SlotAgent
from tests.helpers.paths import ROOT


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
