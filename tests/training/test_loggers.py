"""Loggers of a run: JSON lines always, TensorBoard files, Weights & Biases offline, trackio."""

import dataclasses
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gato_agent.commands.train import TrainConfig, train
from gato_agent.dataset.batch import Batch
from gato_agent.envs.errors import UsageError
from gato_agent.model.config import GatoConfig
from gato_agent.model.embedding import PatchEmbedding
from gato_agent.model.gato import Gato
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.training import flops
from gato_agent.training.flops import RunningPeak, patch_flops, peak_flops, training_flops
from gato_agent.training.loggers import Loggers, numbers
from tests.helpers.teaching import Part, targets_of

ENTRY = {"step": 3, "loss": 0.5, "family_loss": {"classic": 0.5}, "note": "not a number"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two tasks of different families, two steps."""
    folder = tmp_path_factory.mktemp("data")
    collect(CollectConfig(env=("CartPole-v1", "LunarLander-v3"), expert="random", episodes=2, workers=0, out=folder))
    return TrainConfig(data=folder, steps=2, save_every=1, batch_size=4, num_threads=1)


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of TensorBoard's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_run_logs_its_losses_by_family_and_its_speed(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gato_agent.envs.io.progress.PRINT_EVERY", 0.0)
    config = dataclasses.replace(config, out=tmp_path, logger=("tensorboard",))
    train(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if "of 2 steps" in line]
    assert [line.count(" left") for line in lines] == [1, 0]  # the last step has no remaining time
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert set(entries[0]["family_loss"]) == {"box2d", "classic"}
    for entry in entries:
        assert 0 < entry["utilisation"] <= 1
        assert entry["tokens_per_second"] > 0
    low, high = sorted(entries[0]["family_loss"].values())
    assert low < entries[0]["loss"] < high
    assert entries[0]["seconds_left"] > entries[1]["seconds_left"] == 0
    curves = points(tmp_path / "tensorboard")
    assert curves["loss"] == [(e["step"], pytest.approx(e["loss"], rel=1e-6)) for e in entries]
    assert len(curves["family_loss/box2d"]) == 2


def test_a_resumed_run_replaces_in_tensorboard_what_it_does_again(tmp_path: Path) -> None:
    for start, losses in ((0, [1.0, 2.0, 3.0]), (1, [5.0, 6.0])):
        with Loggers(("tensorboard",), tmp_path, {"seed": 0}, start) as loggers:
            for step, loss in enumerate(losses, start + 1):
                loggers.log({"step": step, "loss": loss})
    assert points(tmp_path / "tensorboard")["loss"] == [(1, 1.0), (2, 5.0), (3, 6.0)]
    assert [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").open()] == [1.0, 5.0, 6.0]


def test_weights_and_biases_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with Loggers(("wandb",), tmp_path, {"seed": 7}, 0) as loggers:
        loggers.log(ENTRY)
        summary, run = dict(wandb.run.summary), wandb.run.id
        assert wandb.run.config["seed"] == 7
    assert summary["loss"] == 0.5 and summary["family_loss/classic"] == 0.5 and summary["step"] == 3
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert run in file.name
    for _ in range(300):  # written by a process of its own
        if b"family_loss" in file.read_bytes():
            break
        time.sleep(0.1)
    assert b"family_loss" in file.read_bytes()
    with Loggers(("wandb",), tmp_path, {}, 3):
        assert wandb.run.id == run  # a resumed run is the same one


def test_trackio_is_given_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []
    fake = SimpleNamespace(
        init=lambda **arguments: calls.append(("init", arguments)),
        log=lambda entry, step: calls.append(("log", (entry, step))),
        finish=lambda: calls.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)  # its package and the constraints do not go together
    with Loggers(("trackio",), tmp_path, {"seed": 7}, 0) as loggers:
        loggers.log(ENTRY)
    names, (opened, logged, _) = zip(*calls, strict=True)
    assert names == ("init", "log", "finish")
    assert opened == {"project": "gato-agent", "config": {"seed": 7}, "resume": "allow", "name": opened["name"]}
    assert logged == ({"loss": 0.5, "family_loss/classic": 0.5}, 3)


def test_trackio_itself_keeps_the_curves_of_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when the package is imported
    pytest.importorskip("trackio")
    for start in (0, 2):
        with Loggers(("trackio",), tmp_path, {"seed": 7}, start) as loggers:
            for step in (start + 1, start + 2):
                loggers.log({**ENTRY, "step": step})
    (file,) = (tmp_path / "trackio").rglob("*.db")
    with closing(sqlite3.connect(file)) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert {row[0] for row in rows} == {(tmp_path / "run-id").read_text()}
    assert [row[1] for row in rows] == [1, 2, 3, 4]
    assert json.loads(rows[0][2]) == {"loss": 0.5, "family_loss/classic": 0.5}


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_logger_is_named_before_anything_is_read(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"--logger {name}: no module named {name}; pip install 'gato-agent\[{name}"):
        train(TrainConfig(data=Path("nowhere"), logger=(name,)))


def test_curves_have_the_names_of_their_entries() -> None:
    assert dict(numbers(ENTRY)) == {"loss": 0.5, "family_loss/classic": 0.5}


def batches(size: GatoConfig, actions: int) -> Iterator[Batch]:
    low = size.vocabulary.discrete
    part = Part(torch.arange(0, 200, 2), torch.full((100, actions), low), [(low, low + 3)] * actions)
    for sequences, patches in ((1, 0), (2, 3)):
        tokens = torch.full((sequences, 700), low)
        tokens[0, :patches] = -2
        yield Batch(
            tokens, torch.full_like(tokens, -1), torch.zeros_like(tokens),
            torch.zeros(patches, 16, 16, 4, dtype=torch.uint8) if patches else None,
            torch.tensor([[[0, 128], [0, 128]]]).repeat(patches, 1, 1) if patches else None,
            targets_of([part], action_decoder=size.action_decoder),
        )  # fmt: skip


@pytest.mark.parametrize(("action_decoder", "actions"), [(True, 1), (False, 1), (False, 2)])
def test_operations_are_those_that_torch_counts(action_decoder: bool, actions: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    size = dataclasses.replace(GatoConfig.nano(), action_decoder=action_decoder)
    model = Gato(size)
    for batch in batches(size, actions):
        with FlopCounterMode(display=False) as counter:
            hidden = model(batch.tokens, batch.patches, intervals=batch.intervals).flatten(0, 1)
            for at, ranges in enumerate(batch.targets.ranges):
                for each in ranges:
                    states = hidden[batch.targets.position[each.rows] + batch.targets.offset[at]]
                    decoder = model.action_decoder
                    model.logits(decoder.marginal_state(states, at) if decoder else states, each.low, each.high)
        # Of attention torch counts nothing on a CPU.
        pairs = len(batch.tokens) * sum(min(i + 1, size.context) for i in range(700))
        counted = counter.get_total_flops() + 4 * pairs * size.layers * size.width
        assert training_flops(size, batch) == 3 * counted


def test_operations_of_a_patch_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for size in (GatoConfig.nano(), GatoConfig.small(), GatoConfig.baseline()):
        with FlopCounterMode(display=False) as counter:
            PatchEmbedding(size)(torch.zeros(1, 16, 16, 4, dtype=torch.uint8), torch.tensor([[[0, 128], [0, 128]]]))
        assert patch_flops(size) == counter.get_total_flops()


def test_the_peak_is_the_largest_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([100.0, 400.0, 250.0])  # of a busy device, of a free one, of a busy one
    monkeypatch.setattr(flops, "measure_peak", lambda *_: next(measured))
    monkeypatch.setattr(flops, "peak_flops", flops.measure_peak)
    peak = RunningPeak("cpu", torch.float32)
    assert peak.utilisation(50.0, 1.0) == 0.5
    assert peak.utilisation(300.0, 1.0) == 0.75  # measured again
    assert peak.utilisation(1000.0, 1.0) == 1.0
    assert peak.utilisation(500.0, 1.0) == 0.5 and peak.value == 1000.0


def test_the_peak_is_measured_once() -> None:
    assert peak_flops("cpu") == peak_flops("cpu") > 0


@pytest.mark.parametrize("call", ["log", "finish"])
def test_a_service_that_fails_does_not_end_the_run(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    """Trained weights are worth more than their curves elsewhere."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the service is away")

    run = SimpleNamespace(define_metric=lambda *_, **__: None)
    calls = {"log": lambda *_, **__: None, "finish": lambda: None, call: fail}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run, Error=OSError, **calls))
    path = train(dataclasses.replace(config, out=tmp_path, logger=("wandb",)))
    assert path.exists()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert caplog.text.count("--logger wandb is given up, and training goes on: ConnectionError") == 1
