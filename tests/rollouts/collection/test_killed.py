"""Killed at random times, collecting loses no episode that it reported.

KILLS=200 pytest -n0 -m slow tests/rollouts/collection/test_killed.py
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gato_agent.rollouts.storage.episode_store import open_stores
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.episodes import contents
from tests.helpers.paths import ROOT

FAMILIES = {
    "classic": ("CartPole-v1", "MountainCarContinuous-v0"),
    "box2d": ("LunarLander-v3", "LunarLanderContinuous-v3"),
    "mujoco": ("Hopper-v5", "InvertedPendulum-v5"),
    "metaworld": ("Meta-World/reach-v3", "Meta-World/door-open-v3"),
    "minigrid": ("BabyAI-GoToLocal-v0", "BabyAI-RGB/GoToLocal-v0"),
    "grids and text": ("tests.helpers.faulty_env:Grid-v0", "tests.helpers.testing_env:Testing-v0"),
}
NEEDS = {"box2d": "Box2D", "metaworld": "metaworld", "minigrid": "minigrid", "mujoco": "mujoco"}
PROGRAM = """
import sys
from pathlib import Path
from gato_agent.rollouts.collection import collect
from gato_agent.rollouts.storage import compact, writer
from tests.helpers.paths import ROOT

writer.COMMIT_SECONDS = 0.05  # many commits and many compacted files, so that many kills meet one
compact.SHARD_BYTES = 30_000
out, episodes, workers, *env = sys.argv[1:]
collect.collect(collect.CollectConfig(
    env=tuple(env), expert="random", noise=True, episodes=int(episodes), workers=int(workers), out=Path(out)
))
"""


def start(out: Path, episodes: int, workers: int, env: tuple[str, ...]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-u", "-c", PROGRAM, str(out), str(episodes), str(workers), *env]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def kill_once(out: Path, episodes: int, workers: int, env: tuple[str, ...], rng: random.Random) -> bool:
    """Kill a collector; true if it was killed before its end."""
    process = start(out, episodes, workers, env)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(rng.randrange(1, 6))]
    time.sleep(rng.random() * rng.choice((0.05, 0.5)))
    process.kill()
    lines += process.stdout.read().splitlines()
    killed = process.wait() == -signal.SIGKILL
    sound, problems = verify(out)
    assert not problems
    present = {store.env_id: len(store.indices()) for store in open_stores(out)}
    assert sound >= sum(present.values())  # for a while an episode may be in two files
    for line in lines:
        if match := re.match(r"(\S+): ([\d,]+) of [\d,]+ episodes", line):
            assert present[match[1]] >= int(match[2].replace(",", "")), line
    return killed


def try_family(tmp_path: Path, family: str, kills: int, seed: int) -> None:
    """Kill a collection `kills` times, with more episodes whenever one ends, and compare with an undisturbed one."""
    if family in NEEDS:
        pytest.importorskip(NEEDS[family])
    rng, env = random.Random(seed), FAMILIES[family]
    killed, episodes = 0, 20
    while killed < kills:
        workers = rng.choice((0, 1, 2))
        if kill_once(tmp_path / "killed", episodes, workers, env, rng):
            killed += 1
        else:
            episodes += rng.randrange(5, 40)
    for name in ("killed", "undisturbed"):
        assert start(tmp_path / name, episodes, 2, env).communicate()[0]
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    assert list((tmp_path / "killed").rglob("*.shard.safetensors"))
    print(f"{family}: {killed} kills, {episodes} episodes of each of {', '.join(env)}")


def test_killed_a_few_times(tmp_path):
    try_family(tmp_path, "classic", 4, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_killed_at_random_moments_the_files_are_those_of_an_undisturbed_run(tmp_path, family):
    try_family(tmp_path, family, int(os.environ.get("KILLS", "20")) // len(FAMILIES), seed=len(family))
