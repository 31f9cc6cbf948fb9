"""The verb `train`: initial weights, text models, averaged weights, and the best model."""

import dataclasses
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Text

from gato_agent.checkpoints.checkpoint import Checkpoint, read
from gato_agent.commands.train import TrainConfig, fine_tuning, train
from gato_agent.dataset.load import load_data
from gato_agent.envs.errors import UsageError
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.tokens.space_tokenizer import PAD
from gato_agent.tokens.text_tokenizer import TextTokenizer
from tests.helpers.testing_env import TestingEnv


def test_more_parts_than_sequences_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--accumulate 3 parts"):
        train(TrainConfig(data=data, out=tmp_path, steps=2, batch_size=2, accumulate=3, num_threads=1))


def test_a_run_may_begin_with_the_weights_of_another(data: Path, tmp_path: Path) -> None:
    first = TrainConfig(data=data, out=tmp_path / "first", steps=1, batch_size=1, num_threads=1)
    weights = Checkpoint.load(train(first)).model.state_dict()
    # A step this small changes nothing that float32 could show beside a weight.
    second = dataclasses.replace(first, out=tmp_path / "second", init=str(tmp_path / "first"), learning_rate=1e-30)
    for name, tensor in Checkpoint.load(train(second)).model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    longer = dataclasses.replace(second, out=tmp_path / "longer", shape='{"context": 600}')
    assert Checkpoint.load(train(longer)).model.config == dataclasses.replace(GatoConfig.nano(), context=600)
    with pytest.raises(UsageError, match=r"is of another size: .* it is a nano with {}"):
        train(dataclasses.replace(second, out=tmp_path / "third", size="tiny"))


def test_fine_tuning_learns_one_task_and_leaves_the_others(tmp_path: Path) -> None:
    collect(CollectConfig(env=("FrozenLake-v1",), expert="random", episodes=8, workers=0, out=tmp_path / "data"))
    given = {"data": tmp_path / "data", "steps": 20, "batch_size": 1, "num_threads": 1, "device": "cpu"}
    train(fine_tuning("shipped", **given, out=tmp_path / "run", learning_rate=1e-3))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").open()]
    assert np.mean(losses[-5:]) < losses[0] - 0.1
    assert Checkpoint.load(tmp_path / "run").tasks.keys() == {"FrozenLake-v1"}


def test_a_command_with_the_wrong_data_can_simply_be_corrected(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=data, out=tmp_path / "run", steps=1, batch_size=1, num_threads=1)
    for wrong in ({"data": tmp_path / "nothing"}, {"mixture": '{"Pendulum-v1": 2}'}):
        with pytest.raises(UsageError):
            train(dataclasses.replace(config, **wrong))
        assert not config.out.exists()
    assert train(config).exists()


def words() -> TestingEnv:
    """Observes an order to go somewhere."""
    return TestingEnv(
        observation_space=Text(12, charset="abcdefghijklmnopqrstuvwxyz "),
        reset=lambda env, seed, options: ("go left", {}),
        step=lambda env, action: ("go right", 1.0, env.t >= 3, False, {}),
    )


def test_a_text_model_of_ones_own_and_bfloat16_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Words-v0", EnvSpec("Words-v0", entry_point=words))
    collect(CollectConfig(env=("Words-v0",), expert="random", episodes=2, workers=0, out=tmp_path / "data"))
    text = TextTokenizer.train(["go right to the left"], 300)
    (tmp_path / "own.model").write_bytes(text.model)
    config = TrainConfig(
        data=tmp_path / "data", out=tmp_path / "run", text_model=tmp_path / "own.model", steps=1, batch_size=1,
        save_dtype="bfloat16", num_threads=1,
    )  # fmt: skip
    (task,) = load_data(config.data, GatoConfig.nano(), 32, config.text_model).tokenized
    pieces = text.encode("go right")
    assert task.rows[1, :32].tolist() == pieces + [PAD] * (32 - len(pieces))
    path = train(config)
    kept = Checkpoint.load(path).text
    assert kept is not None
    assert kept.model == text.model != TextTokenizer.train(["go left", "go right"], 512).model
    float32 = sum(4 * p.numel() for p in Gato(GatoConfig.nano()).parameters())
    assert path.stat().st_size - len(text.model) == pytest.approx(float32 / 2, rel=0.01)

    (tmp_path / "own.model").write_bytes(TextTokenizer.train(map(str, range(1000)), 600).model)
    with pytest.raises(UsageError, match=r"own\.model has 600 pieces and .* room for 512"):
        train(dataclasses.replace(config, out=tmp_path / "other"))


def test_held_out_episodes_are_looked_at_and_the_best_model_is_kept(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=data, out=tmp_path, steps=6, batch_size=1, save_every=2, num_threads=1, holdout=0.25)
    train(config)
    data = load_data(config.data, GatoConfig.nano(), 32, holdout=0.25)
    (learned,), (held_out,) = data.tokenized, data.held_out
    assert (len(learned.ends), len(held_out.ends)) == (3, 1)
    losses = {
        entry["step"]: entry["held_out_loss"]
        for entry in map(json.loads, (tmp_path / "log.jsonl").open())
        if "held_out_loss" in entry
    }
    assert list(losses) == [2, 4, 6]
    best = read(tmp_path / "best" / "model.safetensors")[1]["training"]
    assert best["held_out_loss"] == min(losses.values()) == losses[best["step"]]
    assert Checkpoint.load(tmp_path / "best").tasks.keys() == {"CartPole-v1"}


def test_a_damaged_best_model_is_replaced(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=data, out=tmp_path, steps=1, batch_size=1, num_threads=1, holdout=0.25)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.safetensors").write_bytes(b"no model")
    train(config)
    assert Checkpoint.load(tmp_path / "best").training["step"] == 1
