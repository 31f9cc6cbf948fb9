"""Resuming: a run that was killed, stopped or extended ends bit-identical to an uninterrupted one."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from gato_agent.checkpoints.checkpoint import Checkpoint, read
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs.errors import UsageError
from gato_agent.rollouts.collection.collect import CollectConfig, collect


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A short run that saves three times, and was never stopped."""
    out = tmp_path_factory.mktemp("undisturbed")
    config = TrainConfig(data=data, out=out, steps=6, batch_size=1, save_every=2, num_threads=1)
    train(config)
    return config


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("model.safetensors", "state.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    logs = [[json.loads(line) for line in (run / "log.jsonl").open()] for run in (a, b)]
    steps, others = ([(entry["step"], entry["loss"]) for entry in log] for log in logs)
    assert steps == others
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))


@pytest.mark.parametrize(("file", "model_at", "state_at"), [("model", 4, 4), ("state", 6, 4)])
def test_a_save_broken_off_between_its_files_is_made_good(
    file: str, model_at: int, state_at: int, undisturbed: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state never runs ahead of the model; what it does not record is done again."""
    config = dataclasses.replace(undisturbed, out=tmp_path)
    saves, rename = count(1), Path.replace

    def full_disk(path: Path, target: Path) -> Path:
        if target.name == f"{file}.safetensors" and next(saves) == 3:
            raise OSError("the disk is full")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(OSError, match="the disk is full"):
            train(config)
    assert read(tmp_path / "model.safetensors")[1]["training"]["step"] == model_at
    assert read(tmp_path / "state.safetensors")[1]["step"] == state_at
    done = (tmp_path / "log.jsonl").read_text().splitlines()[:state_at]
    train(dataclasses.replace(config, resume=True))
    assert_same_run(undisturbed.out, tmp_path)
    # Speeds are logged too, so these are the same lines only where nothing that was done is done again.
    assert (tmp_path / "log.jsonl").read_text().splitlines()[:state_at] == done


def kill_at(command: list[str], out: Path, lines: int, delay: float, saving: bool) -> bool:
    """Run a command that resumes, and kill it a moment after it has made its log so long; whether it was running.

    Args:
        command: what to run.
        out: folder of the run.
        lines: how long the log is to be.
        delay: seconds to wait then.
        saving: wait for files that are being written too.
    """
    log = out / "log.jsonl"
    before = log.stat().st_ino if log.exists() else None
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if log.exists() and log.stat().st_ino != before and log.read_bytes().count(b"\n") >= lines:
            while saving and process.poll() is None and not partial(out):
                time.sleep(0.001)
            time.sleep(delay)
            process.kill()
            break
        time.sleep(0.01)
    return process.wait() == -signal.SIGKILL


def partial(out: Path) -> list[Path]:
    """Files of a checkpoint that are not complete."""
    return list(out.glob(".*.safetensors.partial"))


KILLS = int(os.environ.get("KILLS", "20"))  # KILLS=100 pytest -n0 -m slow -k killed


@pytest.mark.parametrize("kills", [1, pytest.param(KILLS, marks=pytest.mark.slow)])
def test_killed_training_ends_bit_identical(kills: int, undisturbed: TrainConfig, tmp_path: Path) -> None:
    """Every third kill comes while a checkpoint is being written; one that loads is there at any time."""
    steps = 6 if kills == 1 else 3 * kills
    whole = dataclasses.replace(undisturbed, steps=steps)
    if steps != undisturbed.steps:
        whole = dataclasses.replace(whole, out=tmp_path / "whole")
        train(whole)
    config = dataclasses.replace(whole, out=tmp_path / "killed", resume=True)
    arguments = f"--data {config.data} --out {config.out} --steps {steps} --batch-size 1 --save-every 2 --num-threads 1"
    command = [sys.executable, "-m", "gato_agent", "train", *arguments.split(), "--resume"]
    moments, broken_off = random.Random(0), 0
    for i, length in enumerate(sorted(moments.sample(range(3, steps - 1), kills))):
        saving = i % 3 == 1
        delay = moments.uniform(0, 0.02 if saving else 0.1)
        assert kill_at(command, config.out, length, delay, saving), "it ended before it was killed"
        broken_off += bool(partial(config.out))
        if length > 4:  # the checkpoint of step 2 is on disk before that of step 4 is begun
            assert read(config.out / "state.safetensors")[1]["step"] >= 2
            Checkpoint.load(config.out)
    assert broken_off >= kills // 6
    train(config)
    assert_same_run(whole.out, config.out)


def test_a_run_stopped_by_the_clock_goes_on_exactly(undisturbed: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(undisturbed, out=tmp_path, minutes=0.0)
    for step in range(1, 4):
        train(config)
        assert read(tmp_path / "state.safetensors")[1]["step"] == step
        config = dataclasses.replace(config, resume=True)
    train(dataclasses.replace(config, minutes=None))
    assert_same_run(undisturbed.out, tmp_path)


def test_a_constant_run_is_finished_with_a_decay(undisturbed: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(undisturbed, out=tmp_path / "a", schedule="wsd", warmup=2)
    train(config)
    longer = dataclasses.replace(config, steps=8, decay_steps=2, resume=True)
    train(longer)
    train(dataclasses.replace(longer, out=tmp_path / "b"))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UsageError, match="changes the learning rates"):
        train(dataclasses.replace(longer, steps=10))
    with pytest.raises(UsageError, match="--steps 7: it has taken 8 already"):
        train(dataclasses.replace(longer, steps=7))


def test_a_run_is_refused_where_one_is_and_resumed_only_as_it_was(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=data, out=tmp_path / "run", steps=1, batch_size=1, num_threads=1)
    train(config)
    with pytest.raises(UsageError, match=r"--resume"):
        train(config)
    with pytest.raises(UsageError, match=r"batch_size was 1 and is 2"):
        train(dataclasses.replace(config, batch_size=2, resume=True))
    with pytest.raises(UsageError, match=r"collect"):
        train(dataclasses.replace(config, data=tmp_path / "nothing", out=tmp_path / "other"))


def test_a_run_goes_on_only_with_the_data_it_began_with(tmp_path: Path) -> None:
    more = CollectConfig(env=("CartPole-v1",), expert="random", episodes=2, workers=0, out=tmp_path / "data")
    collect(more)
    config = TrainConfig(data=more.out, out=tmp_path / "run", steps=1, batch_size=1, num_threads=1)
    train(config)
    collect(dataclasses.replace(more, episodes=3))
    with pytest.raises(UsageError, match=r"data_sha256 was \w+ and is \w+"):
        train(dataclasses.replace(config, resume=True))
