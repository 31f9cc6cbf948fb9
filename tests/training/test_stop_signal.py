"""The first interrupt of a run is recorded, the second raises, and the former handler comes back."""

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.train import train
from gato_agent.envs.io.stop_signal import StopSignal
from gato_agent.training.config import TrainConfig
from gato_agent.training.trainer import Trainer


def test_the_first_interrupt_is_recorded_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert not stop.received
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_of_many_processes_and_of_threads_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []
    with StopSignal(active=False):
        assert signal.getsignal(signal.SIGINT) is before

    def enter() -> None:
        with StopSignal() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]


def test_an_interrupted_run_is_saved_first_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(data=(data,), out=tmp_path, steps=4, batch_size=1, num_threads=1, device="cpu")
    update = Trainer.update

    def interrupted(self: Trainer, *batches: object) -> object:
        metrics = update(self, *batches)  # type: ignore[arg-type]
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return metrics

    monkeypatch.setattr(Trainer, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert Checkpoint.load(tmp_path).training["step"] == 2
    monkeypatch.setattr(Trainer, "update", update)
    train(dataclasses.replace(config, resume=True))
    assert Checkpoint.load(tmp_path).training["step"] == 4
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()] == [1, 2, 3, 4]
