"""Checkpoints come back exactly, say what is wrong with them, and cannot run code."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Text
from safetensors.torch import save

from gato_agent.agent import Agent
from gato_agent.checkpoint import Checkpoint, TrainedTask, read, to_bytes
from gato_agent.config import GatoConfig
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.model import Gato
from gato_agent.text import TextTokenizer


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    space = Dict({"mission": Text(40), "x": Box(np.array([-1, -np.inf]), np.array([1, np.inf]))})
    text = TextTokenizer.train(["go to the red ball", "pick up the key"] * 5, 300)
    task = TrainedTask("Toy-v0", space, Discrete(3, start=2), 12, {"size": 5})
    return Checkpoint(Gato(GatoConfig.nano()), {task.id: task}, text, {"steps": 3})


def test_a_checkpoint_comes_back_exactly(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run")
    back = Checkpoint.load(tmp_path / "run")
    for (name, a), b in zip(checkpoint.model.state_dict().items(), back.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert back.tasks == checkpoint.tasks
    assert back.text is not None and checkpoint.text is not None
    assert back.text.encode("go to the blue key") == checkpoint.text.encode("go to the blue key")
    assert back.training == {"steps": 3}
    assert not back.model.training
    tokens = torch.arange(20).unsqueeze(0)
    assert torch.equal(checkpoint.model.eval()(tokens), back.model(tokens))


def test_a_temperature_of_a_task_is_kept_and_makes_another_agent(checkpoint: Checkpoint, tmp_path: Path) -> None:
    warm = {name: dataclasses.replace(task, temperature=0.5) for name, task in checkpoint.tasks.items()}
    other = dataclasses.replace(checkpoint, tasks=warm)
    other.save(tmp_path)
    back = Checkpoint.load(tmp_path)
    assert back.tasks == warm
    assert back.temperatures() == {"Toy-v0": 0.5} and checkpoint.temperatures() == {}
    assert back.sha256() == checkpoint.sha256()  # of the weights alone
    told = Agent(back, back.tasks["Toy-v0"], temperature=0.0)
    assert (Agent(back, back.tasks["Toy-v0"]).temperature, told.temperature) == (0.5, 0.0)


@pytest.mark.parametrize("temperature", [-1.0, "nan", "inf"])
def test_a_temperature_that_cannot_be_is_refused(checkpoint: Checkpoint, tmp_path: Path, temperature: object) -> None:
    tensors, about = read(checkpoint.save(tmp_path))
    about["tasks"][0]["temperature"] = temperature
    (tmp_path / "model.safetensors").write_bytes(to_bytes(tensors, about))
    with pytest.raises(GatoError, match=r"model.safetensors does not describe .* Toy-v0 at temperature"):
        Checkpoint.load(tmp_path)


def test_the_same_content_gives_the_same_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first, second = checkpoint.save(tmp_path / "a"), checkpoint.save(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model.safetensors"]  # no temporary file is left


def test_half_precision_is_stored_and_read_as_float32(checkpoint: Checkpoint, tmp_path: Path) -> None:
    whole = checkpoint.save(tmp_path / "whole").stat().st_size
    half = checkpoint.save(tmp_path / "half", torch.bfloat16)
    assert half.stat().st_size < 0.55 * whole
    back = Checkpoint.load(half)
    table = back.model.embedding.table.weight
    assert table.dtype == torch.float32
    assert torch.equal(table, checkpoint.model.embedding.table.weight.bfloat16().float())
    assert back.text is not None


@pytest.mark.parametrize("damage", ["truncated", "header", "bit", "bound", "empty", "pickle"])
def test_a_damaged_file_is_named(checkpoint: Checkpoint, tmp_path: Path, damage: str) -> None:
    path = checkpoint.save(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-1000] ^= 1
    path.write_bytes({
        "truncated": bytes(data[: len(data) // 2]),
        "header": b"\xff" * 16 + bytes(data[16:]),
        "bit": bytes(data),
        "bound": bytes(data).replace(b'\\"n\\": 3', b'\\"n\\": 4', 1),
        "empty": b"",
        "pickle": pickle.dumps({"weights": 1}),
    }[damage])  # fmt: skip
    with pytest.raises(GatoError, match=r"model.safetensors is .*damaged.*train again"):
        Checkpoint.load(tmp_path)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"x": torch.zeros(2)}))
    with pytest.raises(GatoError, match=r"not one of gato-agent's"):
        Checkpoint.load(path)
    path.write_bytes(save({"x": torch.zeros(2)}, {"gato": json.dumps({"format": 99})}))
    with pytest.raises(GatoError, match=r"format 99.*upgrade"):
        Checkpoint.load(path)
    path.write_bytes(to_bytes({"x": torch.zeros(2)}, {"config": {}, "tasks": []}))
    with pytest.raises(GatoError, match=r"model\.safetensors does not describe .*configuration"):
        Checkpoint.load(path)
    path.write_bytes(to_bytes({"x": torch.zeros(2)}, {"config": GatoConfig.nano().to_json(), "tasks": []}))
    with pytest.raises(GatoError, match=r"(lacks|has too many) weights"):
        Checkpoint.load(path)
    with pytest.raises(UsageError, match=r"no checkpoint at .*nowhere"):
        Checkpoint.load(tmp_path / "nowhere")


def test_weights_that_do_not_fit_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path)
    tensors, about = read(path)
    tensors["norm.weight"] = torch.zeros(3)
    path.write_bytes(to_bytes(tensors, {k: v for k, v in about.items() if k != "format"}))
    with pytest.raises(GatoError, match=r"norm\.weight"):
        Checkpoint.load(path)


def test_a_hostile_description_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    space = {
        "kind": "Box",
        "low": "__import__('os').system('touch canary')",
        "high": 1,
        "shape": [1],
        "dtype": "float32",
    }
    task = {"id": "x", "observation_space": space, "action_space": space, "text_pieces": 1, "env_kwargs": {}}
    path.write_bytes(to_bytes({}, {"config": GatoConfig.nano().to_json(), "tasks": [task]}))
    with pytest.raises(GatoError, match=r"model\.safetensors does not describe"):
        Checkpoint.load(path)
    good = {"kind": "Discrete", "n": 2, "start": 0, "shape": [], "dtype": "int64"}
    task = {"id": "evil:X-v0", "observation_space": good, "action_space": good, "text_pieces": 1, "env_kwargs": {}}
    path.write_bytes(to_bytes({}, {"config": GatoConfig.nano().to_json(), "tasks": [task]}))
    with pytest.raises(GatoError, match=r"import a module"):
        Checkpoint.load(path)
    assert not Path("canary").exists()
