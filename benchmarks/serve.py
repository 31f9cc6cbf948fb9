"""Latency of a policy server on loopback, and its rate with several clients at once.

    python benchmarks/serve.py --env CartPole-v1
    python benchmarks/serve.py --env CartPole-v1 --clients 64

The server runs in a process of its own, and the clients in another. Added latency is a client's round trip less the
agent's own step in the server. The agent in this process takes the same steps in turn with the client, as a paired
reference. All figures are medians of one run, since other programs disturb single requests.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import tyro

from gato_agent.client import RemoteAgent
from gato_agent.envs.spaces.flatten import batch, stack
from gato_agent.inference.agent import Agent


@dataclass(frozen=True)
class Config:
    """Time the actions of a policy server."""

    env: str = "CartPole-v1"
    """Environment id of the task."""
    checkpoint: str | None = None
    """Checkpoint: run folder or .safetensors file; by default the weights shipped with the package."""
    clients: int = 1
    """Clients at once, each with one environment."""
    requests: int = 2000
    """Requests of each client."""


@contextmanager
def serving(config: Config) -> Iterator[str]:
    """Run a server on a free port; yields its address."""
    command = [sys.executable, "-m", "gato_agent", "serve", "--env", config.env, "--port", "0"]
    command += ["--n-envs", str(config.clients), "--device", "cpu"]
    command += ["--checkpoint", config.checkpoint] if config.checkpoint else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"ws://\S+", process.stdout.readline())
        assert found, "the server did not start"
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def quantiles(values: list[float]) -> dict[str, float]:
    """Deciles 1, 5 and 9, in milliseconds."""
    return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (10, 50, 90)}


def main(config: Config) -> None:
    """Print round trips, steps and added latency in milliseconds, and requests a second."""
    agent = Agent.from_pretrained(config.checkpoint, config.env, device="cpu")
    agent.observation_space.seed(0)
    space = agent.observation_space
    observations = [batch(space, stack(space, [space.sample()])) for _ in range(256)]
    agent.act(observations[0])
    local: list[float] = []

    def play(remote: RemoteAgent, *, paired: bool) -> list[tuple[float, float, float]]:
        times = []
        for t in range(config.requests):
            began = perf_counter()
            remote.act(observations[t % 256])
            round_trip = 1e3 * (perf_counter() - began)
            times.append((round_trip, remote.timing["infer_ms"], remote.timing["batch"]))
            if paired:
                began = perf_counter()
                agent.act(observations[t % 256])
                local.append(1e3 * (perf_counter() - began))
        return times[config.requests // 20 :]

    with ExitStack() as opened:
        address = opened.enter_context(serving(config))
        remotes = [opened.enter_context(RemoteAgent(address)) for _ in range(config.clients)]
        began = perf_counter()
        with ThreadPoolExecutor(config.clients) as pool:
            each = list(pool.map(lambda remote: play(remote, paired=config.clients == 1), remotes))
        seconds = perf_counter() - began
    round_trip, step, shared = (list(column) for column in zip(*(row for rows in each for row in rows), strict=True))
    result = {
        "env": config.env, "clients": config.clients, "round trip (ms)": quantiles(round_trip),
        "step in the server (ms)": quantiles(step),
        "added (ms)": quantiles([a - b for a, b in zip(round_trip, step, strict=True)]),
        "requests in a step": quantiles(shared),
    }  # fmt: skip
    if local:
        result["step of an agent here (ms)"] = quantiles(local)
    else:
        result["requests a second"] = round(config.clients * config.requests / seconds)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Config))
