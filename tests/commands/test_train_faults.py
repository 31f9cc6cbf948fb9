"""Errors that stop training: one clear line, and the last good checkpoint stays."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete

from gato_agent.checkpoints.checkpoint import Checkpoint, read
from gato_agent.cli import main
from gato_agent.commands.train import TrainConfig, fine_tuning, train
from gato_agent.envs import files
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.training.run_folder import Log
from tests.helpers.testing_env import TestingEnv

FULL = Path("/dev/full")  # a device that has no space left for anything
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    collect(CollectConfig(env=("CartPole-v1",), expert="random", episodes=4, workers=0, out=folder))
    return folder


@pytest.fixture
def config(data: Path, tmp_path: Path) -> TrainConfig:
    """Two steps, a checkpoint after each."""
    return TrainConfig(
        data=data, out=tmp_path / "run", steps=2, batch_size=1, save_every=1, num_threads=1, device="cpu"
    )


@pytest.mark.parametrize("content", ["{}", '{"steps": "2", "decay_steps": 0}'])
def test_a_config_without_its_steps_is_damaged(content: str, config: TrainConfig) -> None:
    train(config)
    (config.out / "config.json").write_text(content)
    with pytest.raises(GatoError, match=r"config.json is damaged \(it has no steps\)"):
        train(dataclasses.replace(config, resume=True))


def test_what_resumes_a_run_is_no_model_to_begin_with(config: TrainConfig) -> None:
    train(config)
    with pytest.raises(UsageError, match=r"state.safetensors does not describe a model"):
        fine_tuning(str(config.out / "state.safetensors"))


@pytest.mark.parametrize("format_", [99, None])
def test_data_of_another_version_is_said_to_be_so(format_: int | None, config: TrainConfig) -> None:
    (about,) = config.data.glob("*/task.json")
    text = about.read_text()
    try:
        about.write_text(json.dumps({**json.loads(text), "format": format_}))
        with pytest.raises(GatoError, match=rf"task\.json has format {format_}, this version reads \d+: upgrade"):
            train(config)
    finally:
        about.write_text(text)
    assert not config.out.exists()


def test_a_truncated_episode_is_named(tmp_path: Path, config: TrainConfig) -> None:
    collect(CollectConfig(env=("CartPole-v1",), expert="random", episodes=1, workers=0, out=tmp_path / "data"))
    files = [path for path in (tmp_path / "data").rglob("*.safetensors*") if path.is_file()]
    files[0].write_bytes(files[0].read_bytes()[:-40])
    with pytest.raises(GatoError, match=files[0].name):
        train(dataclasses.replace(config, data=tmp_path / "data"))
    assert not config.out.exists()


def test_a_task_without_episodes_is_named_with_its_folder(tmp_path: Path, config: TrainConfig) -> None:
    folder = tmp_path / "data"
    for env_id in ("CartPole-v1", "Acrobot-v1"):
        collect(CollectConfig(env=(env_id,), expert="random", episodes=1, workers=0, out=folder))
    for path in (folder / "Acrobot-v1").glob("*.safetensors"):  # as after a collection in which every seed failed
        path.unlink()
    said = f"Acrobot-v1: no episodes to train on in {folder / 'Acrobot-v1'}: .* or delete the folder to train on the "
    with pytest.raises(UsageError, match=said):
        train(dataclasses.replace(config, data=folder))
    shutil.rmtree(folder / "Acrobot-v1")
    train(dataclasses.replace(config, data=folder))


@needs_full
@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_a_full_disk_keeps_the_last_checkpoint(
    name: str, config: TrainConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dataclasses.replace(config, out=config.out.with_name("whole"))
    train(whole)
    train(dataclasses.replace(config, minutes=0.0))
    create = files.create
    monkeypatch.setattr(files, "create", lambda path: FULL.open("wb") if name in path.name else create(path))
    words = f"train --data {config.data} --out {config.out} --steps 2 --batch-size 1 --save-every 1 --num-threads 1"
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), "--device", "cpu", "--resume"])
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].endswith("No space left on device") and name in lines[0]
    assert read(config.out / "state.safetensors")[1]["step"] == 1
    assert Checkpoint.load(config.out).training["step"] == (1 if name.startswith("model") else 2)
    assert not list(config.out.glob(".*.partial"))
    monkeypatch.undo()
    train(dataclasses.replace(config, resume=True))  # there is room again
    for file in ("model.safetensors", "state.safetensors"):
        assert (config.out / file).read_bytes() == (whole.out / file).read_bytes()


@needs_full
def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", 0)
    log._file.close()
    log._file = FULL.open("a")
    with pytest.raises(OSError, match="No space left") as error:
        log.log({"step": 1})
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "log.jsonl")


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"train --data {config.data} --out {config.out} --steps 9 --batch-size 1 --save-every 1 --num-threads 1"
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), "--device", "cpu", "--learning-rate", "1e22"])
    assert stopped.value.code == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and "the last checkpoint is kept: train again with a lower --learning-rate" in errors[0]
    lines = (config.out / "log.jsonl").read_text().splitlines()
    saved = Checkpoint.load(config.out)
    assert saved.training["step"] == read(config.out / "state.safetensors")[1]["step"] == len(lines) >= 1
    assert all(bool(weight.isfinite().all()) for weight in saved.model.state_dict().values())


def test_a_task_with_other_spaces_than_the_checkpoints_is_named(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config)
    other = EnvSpec("CartPole-v1", entry_point=lambda: TestingEnv(action_space=Discrete(3)))
    monkeypatch.setitem(gym.registry, "CartPole-v1", other)
    collect(CollectConfig(env=("CartPole-v1",), expert="random", episodes=1, workers=0, out=tmp_path / "other"))
    again = fine_tuning(str(config.out), data=tmp_path / "other", out=tmp_path / "tuned", num_threads=1)
    says = r"CartPole-v1 has other spaces .*: observations .* instead of .*, actions Discrete\(3\) instead of "
    with pytest.raises(UsageError, match=says + r"Discrete\(2\); give it another id"):
        train(again)
    assert not again.out.exists()


def test_a_space_that_the_model_has_no_room_for_is_named(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Box(-1, 1, (40_000,))
    spec = EnvSpec("Large-v0", entry_point=lambda: TestingEnv(
        observation_space=large, reset=lambda env, seed, options: (np.zeros(40_000, np.float32), {}),
        step=lambda env, action: (np.zeros(40_000, np.float32), 0.0, env.t > 1, False, {}),
    ))  # fmt: skip
    monkeypatch.setitem(gym.registry, "Large-v0", spec)
    collect(CollectConfig(env=("Large-v0",), expert="random", episodes=1, workers=0, out=tmp_path / "large"))
    with pytest.raises(UsageError, match=r"Large-v0: an observation takes 625 tokens and the model has .* for 512"):
        train(dataclasses.replace(config, data=tmp_path / "large"))
    assert not config.out.exists()
