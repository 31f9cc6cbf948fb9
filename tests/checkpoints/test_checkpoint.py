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

from gato_agent.checkpoints.checkpoint import Checkpoint, read, to_bytes
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.tokens.text_tokenizer import TextTokenizer


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
    greedy = Agent(back, back.tasks["Toy-v0"], temperature=0.0)
    assert (Agent(back, back.tasks["Toy-v0"]).temperature, greedy.temperature) == (0.5, 0.0)


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
    with pytest.raises(GatoError, match=r"not of gato-agent"):
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
    path.unlink()
    with pytest.raises(UsageError, match=r"no checkpoint at .*model\.safetensors: `train` writes it at --save-every"):
        Checkpoint.load(tmp_path)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 4000}, "lacks weights: it has .* for 4,000 layers"),
        ({"layers": 10_000}, "layers 10000 must be at most"),
        ({"layers": 5}, "lacks weights: blocks.4"),
        ({"width": 10**9}, "width 1000000000 must be at most"),
        ({"width": 2**18, "feed_forward": 2**20}, "lacks weights"),
        ({"feed_forward": 2**20}, "has shape .* instead of"),
        ({"context": 10**18}, "context 1000000000000000000 must be at most"),
        ({"context": 10**300}, "context 1000.* must be at most"),
        ({"text": 2**20}, r"has shape \(\d+, 128\) instead of"),
        ({"values_per_token": 4000}, "has shape .* instead of"),
        ({"action_decoder": 1}, "action_decoder 1 must be true or false"),
        ({"patch_channels": [32] + [64] * 100_000}, "lacks weights"),
        ({"patch_channels": [2**40, 64]}, "patch_channels"),
        ({"local_positions": 100_000}, "has shape .* instead of"),
        ({"heads": 10**30}, "heads"),
        ({"stochastic_depth": "x"}, "not a model configuration"),
        ({"layers": 4.0}, "layers 4.0 must be a whole number"),
    ],
)
def test_a_model_that_the_file_does_not_hold_is_refused_before_it_is_made(
    checkpoint: Checkpoint, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    tensors, about = read(checkpoint.save(tmp_path))
    about["config"] |= change
    (tmp_path / "model.safetensors").write_bytes(to_bytes(tensors, about))
    with pytest.raises(GatoError, match=rf"model\.safetensors does not describe .*{message}"):
        Checkpoint.load(tmp_path)


BOX = {"kind": "Box", "shape": [2**12, 2**12], "dtype": "float64", "low": 0, "high": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_pieces": 2.5}, "text_pieces is 2.5, not int"),
        ({"id": ["x"]}, r"env_id \['x'\]"),
        ({"env_kwargs": []}, "env_kwargs is"),
        ({"temperature": True}, "at temperature True"),
        ({"observation_space": BOX | {"shape": [2**13, 2**13]}}, "shape"),
        ({"observation_space": {"kind": "Tuple", "spaces": [BOX] * 3}}, "50,331,648 elements"),
        ({"observation_space": {"kind": "Text", "min_length": 0, "max_length": "9", "charset": "ab"}}, "a text of 0"),
        ({"observation_space": {"kind": "Discrete", "shape": [], "dtype": "object", "n": 3, "start": 0}}, "object"),
    ],
)
def test_a_task_that_cannot_be_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    tensors, about = read(checkpoint.save(tmp_path))
    about["tasks"][0] |= change
    (tmp_path / "model.safetensors").write_bytes(to_bytes(tensors, about))
    with pytest.raises(GatoError, match=rf"model\.safetensors does not describe .*({message})"):
        Checkpoint.load(tmp_path)


def test_a_text_tokenizer_of_more_pieces_than_the_model_has_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Its ids would be read beyond the model's table."""
    words = [f"{a}{b}{c} {b}{a}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvw"]
    larger = TextTokenizer.train(words, 700)
    assert larger.size > checkpoint.model.config.text
    dataclasses.replace(checkpoint, text=larger).save(tmp_path)
    with pytest.raises(GatoError, match=r"does not describe .*a text tokenizer of \d+ pieces .* of 512"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    checkpoint: Checkpoint, tmp_path: Path, value: float
) -> None:
    tensors, about = read(checkpoint.save(tmp_path / "good"))
    tensors["blocks.1.feed_forward.out.weight"][3, 5] = value
    (tmp_path / "model.safetensors").write_bytes(to_bytes(tensors, about))
    with pytest.raises(GatoError, match=r"model\.safetensors: blocks\.1\.feed_forward\.out\.weight is not finite"):
        Checkpoint.load(tmp_path)
    with torch.no_grad():
        checkpoint.model.norm.weight[0] = value
    with pytest.raises(GatoError, match=r"norm\.weight is not finite, so it is not saved"):
        checkpoint.save(tmp_path / "good")
    assert Checkpoint.load(tmp_path / "good").tasks == checkpoint.tasks


def former(checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Tensors and description of a checkpoint as version 0.1 wrote them."""
    names = {"action_decoder.marginal.": "actions.split.", "action_decoder.table.": "actions.table."}
    state = checkpoint.model.state_dict()
    tensors = {
        next((old + name.removeprefix(new) for new, old in names.items() if name.startswith(new)), name): tensor
        for name, tensor in state.items() if "correction" not in name
    }  # fmt: skip
    config = {**checkpoint.model.config.to_json(), "parallel_actions": 32}
    del config["action_decoder"], config["past_actions"]
    return tensors, {"config": config, "tasks": [task.to_json() for task in checkpoint.tasks.values()]}


def test_weights_of_version_0_1_are_read_with_a_correction_of_zero(tmp_path: Path) -> None:
    """Their chain is what they predicted at once."""
    torch.manual_seed(0)
    task = TrainedTask("Toy-v0", Box(-1, 1, (3,)), Dict({"a": Discrete(3), "b": Box(-1, 1, (2,))}))
    checkpoint = Checkpoint(Gato(GatoConfig.nano()).eval(), {task.id: task})
    tensors, about = former(checkpoint)
    (tmp_path / "model.safetensors").write_bytes(to_bytes(tensors, about))
    back = Checkpoint.load(tmp_path)
    assert back.model.config == GatoConfig.nano() and back.tasks == checkpoint.tasks
    for name, tensor in back.model.state_dict().items():
        assert torch.equal(
            tensor, torch.zeros_like(tensor) if "correction" in name else checkpoint.model.state_dict()[name]
        )
    space = np.random.default_rng(0).uniform(-1, 1, (20, 1, 3)).astype(np.float32)
    chained, marginal = (Agent(back, task, temperature=1.0, marginal=each) for each in (False, True))
    for observation in space:
        first, second = (agent.act(observation) for agent in (chained, marginal))
        assert first["a"] == second["a"] and np.array_equal(first["b"], second["b"])
    again = back.save(tmp_path / "again")
    assert "actions.table.weight" not in read(again)[0]  # written as this version has them


@pytest.mark.parametrize("missing", ["actions.table.weight", "actions.split.7.weight", "norm.weight"])
def test_weights_of_version_0_1_that_are_not_whole_are_refused(tmp_path: Path, missing: str) -> None:
    tensors, about = former(Checkpoint(Gato(GatoConfig.nano()), {}))
    del tensors[missing]
    (tmp_path / "model.safetensors").write_bytes(to_bytes(tensors, about))
    with pytest.raises(GatoError, match=r"model.safetensors.* lacks weights: "):
        Checkpoint.load(tmp_path)
