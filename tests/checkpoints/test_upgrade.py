"""Checkpoints of earlier versions are converted and act as then, or are refused with the reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gato_agent.checkpoints.checkpoint import Checkpoint, read, to_bytes
from gato_agent.checkpoints.upgrade import FORMER, upgrade
from gato_agent.cli import main
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.inference.agent import Agent
from tests.helpers.paths import ROOT

FOLDER = ROOT / "tests" / "data" / "former"
AGES = ("first", "parallel")
ACTIONS = json.loads((FOLDER / "actions.json").read_text())


def run_of(age: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(gzip.decompress((FOLDER / f"{age}.safetensors.gz").read_bytes()))
    return folder


def played(folder: Path) -> list[Any]:
    """Actions on the observations for which the versions that wrote the files recorded theirs."""
    checkpoint = Checkpoint.load(folder)
    agent = Agent(checkpoint, checkpoint.tasks["Toy-v0"])
    rng = np.random.default_rng(0)
    numbers, choices = rng.uniform(-1, 1, (40, 1, 3)).astype(np.float32), rng.integers(4, size=(40, 1))
    actions = [agent.act({"p": p, "x": x}) for p, x in zip(choices, numbers, strict=True)]
    return [[int(action["a"][0]), np.asarray(action["b"][0], float).tolist()] for action in actions]


@pytest.mark.parametrize("age", AGES)
def test_a_converted_checkpoint_acts_as_the_version_that_wrote_it(tmp_path, age):
    run = run_of(age, tmp_path / "run")
    assert played(run) == ACTIONS[age]
    before = (run / "model.safetensors").read_bytes()
    (done,) = upgrade(str(run))
    assert (done.written, done.former) == (run / "model.safetensors", run / FORMER)
    assert (run / FORMER).read_bytes() == before
    assert played(run) == ACTIONS[age]
    tensors, about = read(run / "model.safetensors")
    assert about["config"].keys() == Checkpoint.load(run).model.config.to_json().keys()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}  # as in the former file
    assert about["training"] == {"step": 3}
    after = (run / "model.safetensors").read_bytes()
    (again,) = upgrade(str(run))
    assert (again.written, again.changes) == (None, ())
    assert (run / "model.safetensors").read_bytes() == after and (run / FORMER).read_bytes() == before


def test_another_folder_leaves_the_former_file_as_it_is_and_the_best_model_is_converted_too(tmp_path):
    run = run_of("parallel", tmp_path / "run")
    run_of("parallel", run / "best")
    before = (run / "model.safetensors").read_bytes()
    assert [done.written for done in upgrade(str(run), tmp_path / "new")] == [
        tmp_path / "new" / "model.safetensors",
        tmp_path / "new" / "best" / "model.safetensors",
    ]
    assert (run / "model.safetensors").read_bytes() == before and not (run / FORMER).exists()
    assert played(tmp_path / "new" / "best") == ACTIONS["parallel"]
    upgrade(str(run), tmp_path / "new")  # the same files again
    run_of("first", run)
    with pytest.raises(
        UsageError, match=r"new/model\.safetensors exists already: move it, or choose another folder with --out"
    ):
        upgrade(str(run), tmp_path / "new")


def test_nothing_is_replaced_if_the_former_file_has_no_place(tmp_path):
    run = run_of("first", tmp_path / "run")
    (run / FORMER).write_bytes(b"mine")
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match=rf"{FORMER} exists already"):
        upgrade(str(run))
    assert (run / "model.safetensors").read_bytes() == before and (run / FORMER).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about["config"].update(parallel_actions=True), r"a separator of its own: train again on the"),
        (lambda about: about["config"].update(parallel_actions=16), r"parallel_actions 16 of version 0.1 cannot be"),
        (lambda about: about["config"].update(experts=8), r"does not describe a checkpoint of this version: .*experts"),
        (lambda about: about.update(format=2), r"has format 2 and this version reads 1: upgrade gato-agent"),
        (lambda about: about["tasks"][0].pop("action_space"), r"does not describe a checkpoint of this version"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_the_reason_and_unchanged(tmp_path, change, message):
    run = run_of("parallel", tmp_path / "run")
    tensors, about = read(run / "model.safetensors")
    change(about)
    data = to_bytes(tensors, about)
    (run / "model.safetensors").write_bytes(data)
    with pytest.raises(GatoError, match=message):
        upgrade(str(run))
    assert [path.name for path in run.iterdir()] == ["model.safetensors"]
    assert (run / "model.safetensors").read_bytes() == data


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("{run}", 0, "run/model.safetensors converted to"),
        ("{run} --out {new}", 0, "new/model.safetensors: configuration -pack -parallel_actions +action_decoder"),
        ("shipped", 2, "shipped is not replaced: give a folder for the converted file with --out"),
        ("hub:me/agent", 2, "hub:me/agent is not replaced"),
        ("{new}", 2, "no checkpoint at"),
    ],
)
def test_the_command_says_what_it_did(tmp_path, capsys, words, code, message):
    run = run_of("parallel", tmp_path / "run")
    with pytest.raises(SystemExit) as stop:
        main(["checkpoint", "upgrade", *words.format(run=run, new=tmp_path / "new").split()])
    shown = capsys.readouterr()
    assert stop.value.code == code
    assert message in (shown.err if code else shown.out)
