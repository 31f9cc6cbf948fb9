"""Workers play the same episodes as one process, and a fault fails one seed and is named."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from gato_agent.envs.errors import EnvironmentFault
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.collection.worker_process import WorkerProcess
from tests.helpers.episodes import contents, indices
from tests.helpers.faulty_env import OTHER, WORKER
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("expert", ["random", pytest.param("catalogue", marks=pytest.mark.slow)])
def test_the_files_are_the_same_whatever_the_number_of_workers(tmp_path, expert):
    for workers in (0, 1, 3):
        collect(CollectConfig(
            env=("CartPole-v1", "Pendulum-v1"), expert=expert, noise=True, episodes=7, workers=workers,
            out=tmp_path / str(workers),
        ))  # fmt: skip
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "3")


ONE_OF_EACH = {
    "ale_py": "ALE/Breakout-v5",
    "Box2D": "LunarLander-v3",
    "gymnasium_robotics": "FetchReach-v4",
    "metaworld": "Meta-World/pick-place-v3",
    "minatar": "MinAtar/Breakout-v1",
    "minigrid": "BabyAI-PutNextLocal-v0",
    "mujoco": "Hopper-v5",
    "panda_gym": "PandaReach-v3",
    "pybullet_envs_gymnasium": "ReacherBulletEnv-v0",
}


@pytest.mark.slow
@pytest.mark.parametrize("package", ONE_OF_EACH)
def test_every_family_is_the_same_whatever_the_number_of_workers(tmp_path, package):
    pytest.importorskip(package)
    env = ONE_OF_EACH[package]
    for workers, episodes in ((0, 5), (2, 2), (2, 5)):
        collect(CollectConfig(
            env=(env,), expert="random", noise=True, episodes=episodes, workers=workers, out=tmp_path / str(workers)
        ))  # fmt: skip
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


@pytest.mark.parametrize(
    "how",
    [
        ["--workers", "2"],
        *(pytest.param(each, marks=pytest.mark.slow) for each in (["--workers", "0"], ["--ray", "local"])),
    ],
)
def test_an_expert_has_the_threads_that_were_asked_for(tmp_path, how):
    if "--ray" in how:
        pytest.importorskip("ray")
    seen = tmp_path / "seen"
    seen.mkdir()
    command = [
        sys.executable, "-m", "gato_agent", "collect", "--env", "CartPole-v1", "--episodes", "4", *how,
        "--expert", "tests.helpers.counting_expert:make", "--num-threads", "3", "--out", str(tmp_path / "data"),
    ]  # fmt: skip
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # it would decide
    environ |= {"THREADS_SEEN": str(seen), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    assert {path.read_text() for path in seen.iterdir()} == {"3"}


FAULTS = {
    "raise": "raised RuntimeError: the wheel came off",
    "nan": "returned an observation that is not in its space: element [0] is nan, not a finite number",
    "sys.exit": "raised SystemExit: 7",
    "hang": "did not finish within 5 s (--timeout)",
    "exit": "ended its worker: exit code 7",
    "kill": "ended its worker: SIGKILL",
    "segfault": "ended its worker: SIGSEGV",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_costs_one_seed(tmp_path, capsys, fault):
    kwargs = json.dumps({"fault": fault, "seed": 3})
    with pytest.raises(EnvironmentFault) as caught:
        collect(CollectConfig(
            env=(WORKER, OTHER), expert="random", episodes=8, workers=2, timeout=5.0, env_kwargs=kwargs, out=tmp_path
        ))  # fmt: skip
    for env_id in ("Worker-v0", "Other-v0"):
        assert f"{env_id}: step 2 of seed 3 {FAULTS[fault]}; " in str(caught.value)
    assert caught.value.exit_code == 1
    assert indices(tmp_path) == {"Other-v0": [0, 1, 2, 4, 5, 6, 7], "Worker-v0": [0, 1, 2, 4, 5, 6, 7]}
    assert f"failed: Worker-v0: step 2 of seed 3 {FAULTS[fault]}" in capsys.readouterr().out


def test_an_environment_that_closes_the_connection_is_named(tmp_path):
    kwargs = json.dumps({"fault": "close", "seed": 1})
    said = r"^Worker-v0: step \d of seed 1 ended its worker: it closed a file of the worker \(Bad file descriptor\)"
    with pytest.raises(EnvironmentFault, match=said):
        collect(CollectConfig(env=(WORKER,), expert="random", episodes=3, env_kwargs=kwargs, out=tmp_path))
    assert indices(tmp_path) == {"Worker-v0": [0, 2]}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_fails_because_its_worker_leaks_is_played_in_a_new_one(tmp_path, workers):
    collect(CollectConfig(
        env=(WORKER, OTHER), expert="random", episodes=11, workers=workers, env_kwargs='{"fault": "leak"}', out=tmp_path
    ))  # fmt: skip
    assert indices(tmp_path) == {"Other-v0": list(range(11)), "Worker-v0": list(range(11))}


def test_what_fails_in_a_new_worker_too_is_named_once_and_soon_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("gato_agent.rollouts.collection.collect.RETRIES", 2)
    started = MagicMock(side_effect=WorkerProcess)
    monkeypatch.setattr("gato_agent.rollouts.collection.process_pool.WorkerProcess", started)
    with pytest.raises(EnvironmentFault, match=r"^10 failures: Worker-v0: reset with seed \d raised OSError"):
        collect(CollectConfig(env=(WORKER,), expert="random", episodes=20, env_kwargs='{"fault": "odd"}', out=tmp_path))
    assert indices(tmp_path) == {"Worker-v0": list(range(0, 20, 2))}
    assert started.call_count <= 3


def test_a_task_that_only_kills_its_workers_ends_and_the_others_are_played(tmp_path, monkeypatch):
    monkeypatch.setattr("gato_agent.rollouts.collection.scheduler.HOPELESS", 2)
    kwargs = json.dumps({"fault": "exit", "seed": -2})
    said = (
        r"failures: Worker-v0: step 2 of seed 0 ended its worker.*Worker-v0: no seed could be played, so 48 more were"
    )
    with pytest.raises(EnvironmentFault, match=said):
        collect(CollectConfig(env=(WORKER,), expert="random", episodes=50, env_kwargs=kwargs, out=tmp_path))
    assert indices(tmp_path) == {"Worker-v0": []}


def test_a_worker_that_is_killed_from_outside_costs_one_seed(tmp_path):
    def kill_one() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if list(tmp_path.rglob("0*.safetensors")):
                time.sleep(0.12)  # it has just sent results, and for that moment is at no seed
                os.kill(workers_of(os.getpid())[0], signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(EnvironmentFault, match=r"Worker-v0: step \d of seed \d+ ended its worker: SIGKILL") as caught:
        collect(CollectConfig(
            env=(WORKER,), expert="random", episodes=40, workers=2, env_kwargs='{"pause": 0.05}', out=tmp_path
        ))  # fmt: skip
    killer.join()
    lost = re.search(r"of seed (\d+)", str(caught.value))
    assert lost
    assert indices(tmp_path) == {"Worker-v0": [seed for seed in range(40) if seed != int(lost[1])]}


def workers_of(parent: int) -> list[int]:
    """Ids of the processes that `multiprocessing` has spawned from a parent."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (path / "status").read_text(), (path / "cmdline").read_text()
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in status and "spawn_main" in command:
            pids.append(int(path.name))
    return sorted(pids)


def test_workers_end_with_their_parent(tmp_path):
    command = [
        sys.executable, "-m", "gato_agent", "collect", "--env", WORKER, "--expert", "random", "--workers", "2",
        "--env-kwargs", '{"pause": 0.05}', "--out", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline(), process.stdout.readline()  # the beginning, and the first episodes
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    collect(CollectConfig(env=(WORKER,), expert="random", env_kwargs='{"pause": 0.05}', episodes=2, out=tmp_path))


def test_an_interrupt_keeps_what_was_played_and_ends_the_workers(tmp_path):
    command = [
        sys.executable, "-m", "gato_agent", "collect", "--env", WORKER, "--expert", "random", "--workers", "2",
        "--env-kwargs", '{"pause": 0.05}', "--out", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline(), process.stdout.readline()  # the beginning, and the first episodes
    workers = workers_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.stdout.read()
    assert process.wait(20) == 130
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    (found,) = indices(tmp_path).values()
    reported = [int(count) for count in re.findall(r"Worker-v0: (\d+) of", said)]
    assert max(reported, default=1) <= len(found) < 100


def test_a_disk_that_is_full_is_said_and_ends_everything(tmp_path, monkeypatch):
    def full(self, episodes):
        raise OSError(28, "No space left on device", "there")

    monkeypatch.setattr("gato_agent.rollouts.storage.episode_store.EpisodeStore.commit", full)
    with pytest.raises(OSError, match="No space left"):
        collect(CollectConfig(env=(WORKER,), expert="random", episodes=5, out=tmp_path))
    assert not workers_of(os.getpid())
