"""Exported steps of the shipped weights act as the agent does over 1,000 steps, in Python and without it."""

import os
import re
import shutil
import subprocess
from contextlib import closing
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.exporting.export import export
from gato_agent.exporting.graph_actor import GraphActor
from gato_agent.inference.agent import Agent
from tests.helpers.exported import Compared
from tests.helpers.paths import ROOT

STEPS = 1000
NEAR = 1e-5  # of a cumulated probability to a half: sums of float32 in another order
TASKS = [
    "CartPole-v1", "CliffWalking-v1", "Pendulum-v1", "LunarLanderContinuous-v3", "HalfCheetah-v5", "Humanoid-v5",
    "FetchReach-v4", "Meta-World/reach-v3", "MinAtar/Breakout-v1", "ALE/Breakout-v5", "BabyAI-BossLevel-v0",
    "BabyAI-RGB/GoToLocal-v0",
]  # fmt: skip
INCLUDE = ("onnxruntime_cxx_api.h", "core/session/onnxruntime_cxx_api.h")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return Checkpoint.load("shipped")


@pytest.mark.parametrize("env_id", TASKS)
def test_it_acts_as_the_agent_over_a_thousand_steps(shipped: Checkpoint, env_id: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    task = shipped.tasks[env_id]
    export(shipped, task, tmp_path / "step.onnx", temperature=0.0)
    compared = Compared(Agent(shipped, task, temperature=0.0), GraphActor.load(tmp_path / "step.onnx"))
    with closing(make_vector(env_id, 1)) as envs:
        played = sum(1 for _ in islice(steps(compared, envs, count(1000)), STEPS))
    assert played == STEPS
    assert compared.differing <= 1e-4 * compared.numbers and compared.margin < NEAR


def headers() -> Path | None:
    """Folder of ONNX Runtime's C++ header: of a release in $ONNXRUNTIME, or of a system package."""
    roots = [Path(os.environ.get("ONNXRUNTIME", "/nowhere")) / "include", *map(Path, ("/usr/include/onnxruntime",
             "/usr/local/include/onnxruntime", "/usr/include", "/usr/local/include"))]  # fmt: skip
    return next(((root / name).parent for root in roots for name in INCLUDE if (root / name).is_file()), None)


def library(folder: Path) -> Path:
    """A folder with `libonnxruntime.so`, of the release in $ONNXRUNTIME or of the Python package."""
    runtime = pytest.importorskip("onnxruntime")
    release = Path(os.environ.get("ONNXRUNTIME", "/nowhere")) / "lib"
    if (release / "libonnxruntime.so").exists():
        return release
    (file, *_) = (Path(runtime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(file)
    return folder


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_example_in_cpp_acts_as_the_agent(shipped: Checkpoint, tmp_path: Path) -> None:
    include = headers()
    if include is None:
        pytest.skip("needs the headers of ONNX Runtime: unpack a release and set ONNXRUNTIME to its folder")
    task, lib = shipped.tasks["CartPole-v1"], library(tmp_path)
    export(shipped, task, tmp_path / "cartpole.onnx")
    source, program = ROOT / "examples" / "onnx_cpp" / "step.cpp", tmp_path / "step"
    command = ["g++", "-std=c++17", "-O2", source, "-isystem", include, "-L", lib, "-lonnxruntime",
               f"-Wl,-rpath,{lib}", "-o", program]  # fmt: skip
    subprocess.run(command, check=True)
    observations = np.random.default_rng(0).normal(0, 0.1, (STEPS, 4)).astype(np.float32)
    text = "\n".join(" ".join(repr(float(x)) for x in row) for row in observations)
    command = [program, tmp_path / "cartpole.onnx"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    agent = Agent(shipped, task)
    expected = [int(agent.act(row[None], np.array([t == 0]))[0]) for t, row in enumerate(observations)]
    assert [int(line) for line in done.stdout.split()] == expected and len(set(expected)) == 2
    assert re.fullmatch(rf"{STEPS} steps, [\d.]+ ms each\n", done.stderr)


def test_the_example_is_short() -> None:
    assert len((ROOT / "examples" / "onnx_cpp" / "step.cpp").read_text().splitlines()) <= 60
