"""Returns during training: played as `evaluate` plays, and without a trace in what is trained."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

from gato_agent.checkpoints.checkpoint import Checkpoint, read, to_bytes
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs.errors import UsageError
from gato_agent.inference import agent
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.training import run
from gato_agent.training.validation import FIRST_SEED, Returns, validate_in_env
from tests.helpers.testing_env import BurningEnv


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A short run that only trains."""
    folder = tmp_path_factory.mktemp("quiet")
    collect(CollectConfig(env=("CartPole-v1",), episodes=2, noise=True, workers=0, out=folder / "data"))
    config = TrainConfig(
        data=folder / "data", out=folder / "run", steps=4, save_every=2, batch_size=1, num_threads=1, device="cpu"
    )
    train(config)
    return config


@pytest.fixture(params=["engine", "pytorch"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pytorch":  # as on a GPU
        monkeypatch.setattr(agent, "make_decoder", lambda model, legal, *_, **__: TorchDecoder(model, legal))
    return str(request.param)


def entries(config: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.out / "log.jsonl").open()]


def test_playing_leaves_no_trace_in_training(quiet: TrainConfig, tmp_path: Path, decoder: str) -> None:
    config = dataclasses.replace(quiet, out=tmp_path, eval_every=1, eval_episodes=2)
    train(dataclasses.replace(config, minutes=0.0))
    train(dataclasses.replace(config, resume=True, eval_every=3))
    assert read(tmp_path / "state.safetensors")[0].keys() == read(quiet.out / "state.safetensors")[0].keys()
    assert (tmp_path / "state.safetensors").read_bytes() == (quiet.out / "state.safetensors").read_bytes()
    assert [entry["loss"] for entry in entries(config)] == [entry["loss"] for entry in entries(quiet)]
    played = {entry["step"]: entry for entry in entries(config) if "returns" in entry}
    assert list(played) == [1, 3, 4]
    for entry in played.values():
        assert entry["selection_metric"] == entry["scores"]["CartPole-v1"]
        assert entry["returns"]["CartPole-v1"] >= 8
    best = read(tmp_path / "best" / "model.safetensors")[1]["training"]
    assert best["selection_metric"] == max(entry["selection_metric"] for entry in played.values())
    assert best["returns"] == played[best["step"]]["returns"]


def test_the_returns_are_those_of_evaluate(quiet: TrainConfig) -> None:
    message: list[str] = []
    returns = validate_in_env(Checkpoint.load(quiet.out), ["CartPole-v1"], 3, "cpu", message.append)
    expected = EvaluateConfig(checkpoint=str(quiet.out), seed=FIRST_SEED, episodes=3, n_envs=3, device="cpu")
    validation = evaluate(expected).tasks
    assert returns.tasks.keys() == validation.keys()
    assert all(sorted(returns.tasks[task].returns) == sorted(validation[task].returns) for task in validation)
    assert message[-1] == "playing CartPole-v1: 3 of 3"


def test_an_environment_that_fails_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        gym.registry, "Fire-v0", EnvSpec("Fire-v0", entry_point=lambda: BurningEnv(fault_seed=FIRST_SEED))
    )
    collect(CollectConfig(env=("Fire-v0",), expert="random", episodes=1, workers=0, out=tmp_path / "data"))
    config = TrainConfig(data=tmp_path / "data", out=tmp_path / "run", steps=1, batch_size=1, num_threads=1)
    config = dataclasses.replace(config, eval_every=1, eval_episodes=1)
    train(config)
    (entry,) = entries(config)
    assert "the motor is on fire" in entry["not_played"]["Fire-v0"]
    assert "selection_metric" not in entry
    assert not (config.out / "best").exists()
    assert (config.out / "model.safetensors").exists()


def test_what_is_played_must_be_learned(quiet: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(quiet, out=tmp_path / "run", eval_every=1, eval_env=("Pendulum-v1",))
    with pytest.raises(UsageError, match="Pendulum-v1 is not among the training tasks: choose from CartPole-v1"):
        train(config)
    assert not config.out.exists()


def test_without_episodes_there_is_no_selection_metric() -> None:
    assert Returns().selection_metric is None


def test_the_best_model_of_version_0_1_is_compared_by_its_former_key(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes({}, {"training": {"worth": 0.5, "step": 3}}))
    assert run._training_of(path) == {"selection_metric": 0.5, "step": 3}
    assert run._selection_key(run._training_of(path)) == (2, 0.5)
    assert run._training_of(tmp_path / "missing") == {}
