"""Collection speed: overhead over a bare loop, speed-up of two workers, and read throughput of compacted episodes.

    python benchmarks/collection.py [--overhead ENV ...] [--workers ENV ...] [--no-reading] [--rounds 7]

Both sides of a ratio alternate within one run, and the median ratio is reported, so that machine load cancels out.
"""

import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from gato_agent.envs.errors import UsageError
from gato_agent.envs.make import make_vector
from gato_agent.envs.spaces.batch_of_one import batch_of_one, only_one
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.storage.compact import compact
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore


@dataclass(frozen=True)
class Config:
    """Measure the speed of collection."""

    overhead: tuple[str, ...] = (
        "CartPole-v1",
        "LunarLander-v3",
        "HalfCheetah-v5",
        "Meta-World/reach-v3",
        "BabyAI-GoToLocal-v0",
    )
    """Environments to compare with a bare loop of their experts, one process."""
    workers: tuple[str, ...] = ("LunarLander-v3",)
    """Environments to compare two workers with one in."""
    reading: bool = True
    """Also measure read throughput."""
    rounds: int = 7
    """Repetitions of each pair; the median is reported."""
    seconds: float = 10.0
    """Approximate CPU time in seconds of one side of an overhead pair."""
    worker_seconds: float = 40.0
    """Approximate CPU time in seconds of one side of a worker pair."""


def bare(env_id: str) -> Callable[[int, int], int]:
    """Plain loop of expert and environment over a range of seeds, which stores nothing and returns its steps."""
    envs = make_vector(env_id, 1)
    env: Any = envs.envs[0].env  # type: ignore[attr-defined]  # inside CheckedEnv: as gymnasium.make gives it
    expert = load_expert("catalogue", env_id, envs.single_observation_space, envs.single_action_space, envs=envs)
    batch, one = batch_of_one(envs.single_observation_space), only_one(envs.single_action_space)
    first, later = np.ones(1, np.bool_), np.zeros(1, np.bool_)

    def play(begin: int, end: int) -> int:
        steps = 0
        for seed in range(begin, end):
            expert.seed(seed)
            expert.reset(1)
            observation, _ = env.reset(seed=seed)
            start, done = first, False
            while not done:
                action = one(expert.act(batch(observation), start))
                observation, _, terminated, truncated, _ = env.step(action)
                start, done, steps = later, bool(terminated or truncated), steps + 1
        return steps

    return play


class Times(NamedTuple):
    """Wall and CPU time of this process in seconds."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> Times:
    """Time a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Times(time.perf_counter() - wall, time.process_time() - cpu)


def collecting(env_id: str, episodes: int, workers: int) -> Times:
    """Times of collecting and compacting a number of episodes."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        return timed(lambda: collect(CollectConfig((env_id,), episodes=episodes, workers=workers, out=Path(folder))))


def calibrated(play: Callable[[int, int], int], seconds: float) -> int:
    """Number of episodes that take about `seconds` of CPU time."""
    play(0, 1)
    began, episodes = time.process_time(), 0
    while time.process_time() - began < min(2.0, seconds):
        play(episodes, episodes + 1)
        episodes += 1
    return max(1, round(episodes * seconds / (time.process_time() - began)))


def overhead(config: Config, console: Console) -> None:
    """Print steps/s of a bare loop and of collect, and the ratio."""
    table = Table("environment", title="collect over a bare loop, one process; of the clock, and of CPU time")
    for heading in ("episodes", "bare steps/s", "collect steps/s", "ratio", "ratio, CPU"):
        table.add_column(heading, justify="right")
    for env_id in config.overhead:
        try:
            play = bare(env_id)
        except UsageError as error:
            console.print(f"left out: {error}", highlight=False)
            continue
        episodes = calibrated(play, config.seconds)
        steps = play(0, episodes)
        pairs = [
            (timed(partial(play, 0, episodes)), collecting(env_id, episodes, workers=0)) for _ in range(config.rounds)
        ]
        wall = statistics.median(loop.wall / whole.wall for loop, whole in pairs)
        cpu = statistics.median(loop.cpu / whole.cpu for loop, whole in pairs)
        speeds = [
            f"{steps / statistics.median(side.wall for side in sides):,.0f}" for sides in zip(*pairs, strict=True)
        ]
        table.add_row(env_id, str(episodes), *speeds, f"{wall:.2f}", f"{cpu:.2f}")
    console.print(table)


def two_workers(config: Config, console: Console) -> None:
    """Print the speed-up of two workers over one."""
    table = Table("environment", title="two workers over one, with start of processes and compaction")
    for heading in ("episodes", "one, seconds", "two, seconds", "ratio"):
        table.add_column(heading, justify="right")
    for env_id in config.workers:
        episodes = calibrated(bare(env_id), config.worker_seconds)
        pairs = [
            (collecting(env_id, episodes, workers=1).wall, collecting(env_id, episodes, workers=2).wall)
            for _ in range(max(1, config.rounds // 2))
        ]
        one, two = (f"{statistics.median(times):.1f}" for times in zip(*pairs, strict=True))
        table.add_row(env_id, str(episodes), one, two, f"{statistics.median(a / b for a, b in pairs):.2f}")
    console.print(table)


def made(kind: str, seed: int) -> Episode:
    """Synthetic episode of a typical size, of random numbers or compressible images."""
    rng = np.random.default_rng(seed)
    steps = {"numbers, 1,000 x 105": 1000, "numbers, 200 x 4": 200, "pictures, 500 x 210 x 160 x 3": 500}[kind]
    observations: dict[str, Any]
    if kind.startswith("pictures"):
        pictures = np.zeros((steps + 1, 210, 160, 3), np.uint8)
        for t, (row, column) in enumerate(rng.integers(0, 150, (steps + 1, 2))):
            pictures[t, row : row + 8, column : column + 8] = 200
        observations = {"": pictures}
    else:
        observations = {"": rng.normal(size=(steps + 1, 105 if steps == 1000 else 4))}
    return Episode(observations, {"": rng.normal(size=(steps, 6))}, None, np.ones(steps), True, False, None, seed)


KINDS = {"numbers, 1,000 x 105": 300, "numbers, 200 x 4": 3000, "pictures, 500 x 210 x 160 x 3": 10}
HEADER: dict[str, Any] = {
    "env_id": "Made-v0", "env_kwargs": {}, "observation_space": {}, "action_space": {}, "expert": {}, "noise": False,
}  # fmt: skip


def reading(config: Config, console: Console) -> None:
    """Print the read throughput of compacted episodes and of their plain files, from page cache and disk."""
    table = Table(
        "episodes", title="read throughput with checksums in GB/s: of CPU time if cached, of wall time from disk"
    )
    for heading in ("MB in memory", "MB on disk", "cached", "file, cached", "from disk", "file, from disk"):
        table.add_column(heading, justify="right")
    for kind, count in KINDS.items():
        with tempfile.TemporaryDirectory(dir=".") as folder:
            with EpisodeStore.create(Path(folder), HEADER) as store:
                for begin in range(0, count, 100):
                    store.commit([made(kind, i).encode() for i in range(begin, min(count, begin + 100))])
                compact(store)
            memory, disk = sum(sum(shard.sizes) for shard in store.shards()), store.size()
            speeds: dict[str, list[float]] = {key: [] for key in ("cached", "file", "cold", "cold file")}
            for _ in range(config.rounds):
                speeds["file"].append(disk / timed(partial(files, store)).cpu)
                speeds["cached"].append(memory / timed(partial(episodes_of, store)).cpu)
                forget(store)
                speeds["cold file"].append(disk / timed(partial(files, store)).wall)
                forget(store)
                speeds["cold"].append(memory / timed(partial(episodes_of, store)).wall)
            shown = [f"{statistics.median(speeds[key]) / 1e9:.2f}" for key in ("cached", "file", "cold", "cold file")]
            table.add_row(kind, f"{memory / 1e6:.0f}", f"{disk / 1e6:.0f}", *shown)
    console.print(table)


def episodes_of(store: EpisodeStore) -> None:
    """Open a store and read every episode."""
    fresh = EpisodeStore(store.folder)
    for index in fresh.indices():
        fresh.read(index)


def files(store: EpisodeStore) -> None:
    """Read the bytes of every file."""
    for path in store.shard_paths():
        path.read_bytes()


def forget(store: EpisodeStore) -> None:
    """Drop the files from the kernel's page cache."""
    for path in store.shard_paths():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(config: Config) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    console = Console(width=120)
    if config.overhead:
        overhead(config, console)
    if config.workers:
        two_workers(config, console)
    if config.reading:
        reading(config, console)


if __name__ == "__main__":
    main(tyro.cli(Config))
