"""A run's tokens in one file: the same, mapped, found again, and never trusted when they are others."""

import dataclasses
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import MultiDiscrete

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.train import TrainConfig, train
from gato_agent.dataset import load as data_module
from gato_agent.dataset import token_file as dataset_module
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.load import load_data
from gato_agent.dataset.token_file import FILE, Data
from gato_agent.envs.errors import GatoError
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.tokens.space_tokenizer import SpaceTokenizer

SIZE = dataclasses.replace(GatoConfig.nano(), context=128)
SHAPE = '{"context": 128}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers, and texts with pictures."""
    pytest.importorskip("minigrid")
    out = tmp_path_factory.mktemp("data")
    envs = ("CartPole-v1", "BabyAI-RGB/GoToRedBall-v0")
    collect(CollectConfig(env=envs, episodes=4, noise=True, workers=0, out=out))
    return out


def load(folder: Path, file: Path | None = None, **given: object) -> Data:
    options: dict = {"text_pieces": None, "holdout": 0.25, "prompt": "text", "file": file, **given}
    return load_data(folder, SIZE, **options)


def same(a: Data, b: Data) -> bool:
    return a.sha256 == b.sha256 and a.tasks == b.tasks and a.families == b.families


def test_mapped_tokens_are_the_same_and_no_episode_is_read_for_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load(folder)
    mapped = made.mapped(tmp_path / FILE, SIZE)
    assert mapped.file == tmp_path / FILE and made.file is None and same(made, mapped)
    assert mapped.text is not None and made.text is not None and mapped.text.model == made.text.model
    one, other = (
        BatchSampler(d.tokenized, sequence_length=256, batch_size=4, min_segment=16).batch(0) for d in (made, mapped)
    )
    for name in ("tokens", "local", "segment", "patches", "value_groups"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    monkeypatch.setattr(data_module, "TokenizedTask", None)  # nothing is tokenized
    again = load(folder, tmp_path / FILE)
    assert same(again, made) and again.mapped(tmp_path / FILE, SIZE) is again
    assert not again.tokenized[0].rows.flags.writeable  # a view of the file


def test_a_patch_is_kept_once(folder: Path) -> None:
    (task,) = (task for task in load(folder).tokenized if "RGB" in task.name)
    patches, places = task.arrays.patches, task.arrays.places
    assert len({patch.tobytes() for patch in patches}) == len(patches) < places.size / 2
    assert np.array_equal(task.seen(slice(3, 5))[0], patches[places[3:5].ravel()])


def test_tokens_of_something_else_are_made_again(folder: Path, tmp_path: Path) -> None:
    made = load(folder).mapped(tmp_path / FILE, SIZE)
    assert made.file
    assert load(folder, tmp_path / FILE, holdout=0.5).file is None
    assert load(folder, tmp_path / FILE, text_pieces=20).file is None
    other = dataclasses.replace(SIZE, values_per_token=8)
    assert load_data(folder, other, None, holdout=0.25, prompt="text", file=made.file).file is None
    task = next(folder.rglob("task.json"))
    os.utime(task, ns=(1, 1))  # as if it had been written again
    assert load(folder, tmp_path / FILE).file is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_damaged_tokens_are_made_again(folder: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE
    made = load(folder).mapped(path, SIZE)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-len(content) // 3] ^= 1
    path.write_bytes({"cut": content[:-100], "empty": b"", "other": b"x" * 100}.get(damage, content))
    again = load(folder, path)
    assert again.file is None and again.sha256 == made.sha256


def test_a_run_keeps_its_tokens_until_it_is_complete(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        data=folder, out=tmp_path / "run", shape=SHAPE, steps=3, batch_size=1, num_threads=1, minutes=0.0, prompt="text"
    )
    train(config)
    assert (config.out / FILE).exists()
    with monkeypatch.context() as patch:
        patch.setattr(data_module, "TokenizedTask", None)
        train(dataclasses.replace(config, resume=True, minutes=None))
    assert not (config.out / FILE).exists()
    whole = dataclasses.replace(config, out=tmp_path / "whole", minutes=None)
    assert Checkpoint.load(train(whole)).sha256() == Checkpoint.load(config.out).sha256()


def test_a_folder_named_twice_is_read_once(folder: Path) -> None:
    twice = load_data([folder, folder / "CartPole-v1"], SIZE, None, prompt="text", holdout=0.25)
    assert same(twice, load(folder))


def test_two_episodes_at_most_are_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred episodes of raw frames would not fit: the next one is read, then the former is freed."""
    alive, most, fitting = list[weakref.ref[np.ndarray]](), list[int](), EpisodeStore.fitting

    def counted(store: EpisodeStore, index: int) -> Episode:
        episode = fitting(store, index)
        alive.append(weakref.ref(next(iter(episode.observations.values()))))
        most.append(sum(each() is not None for each in alive))
        return episode

    monkeypatch.setattr(EpisodeStore, "fitting", counted)
    load(folder)
    assert len(most) >= 8
    assert max(most) <= 2


def test_what_is_wrong_is_said_before_anything_is_kept(tmp_path: Path) -> None:
    with pytest.raises(GatoError):
        train(TrainConfig(data=tmp_path / "none", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["text_pieces", "source_digest", "header"])
def test_nothing_in_the_file_is_trusted_unseen(folder: Path, tmp_path: Path, part: str) -> None:
    path = tmp_path / FILE
    load(folder).mapped(path, SIZE)
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    if part == "header":
        path.write_bytes((4).to_bytes(8, "little") + b"null" + content[size:])
    else:
        header = content[8:size]
        old, new = {
            "text_pieces": (b'\\"text_pieces\\": 10', b'\\"text_pieces\\": 11'),
            "source_digest": (b'\\"source_digest\\": \\"', b'\\"source_digest\\":\\"0'),
        }[part]
        assert old in header
        path.write_bytes(content[:8] + header.replace(old, new) + content[size:])
    assert load(folder, path).file is None


def test_tokens_stay_in_memory_where_the_disk_is_full(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(files: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_module, "write_files", full)
    made = load(folder)
    assert made.mapped(tmp_path / FILE, SIZE) is made
    assert "No space left" in caplog.text


def test_grids_of_former_checkpoints_keep_their_layout() -> None:
    """Checkpoints without `grid_rows` in their config keep the former layout of grids."""
    new = GatoConfig.nano()
    before = {key: value for key, value in new.to_json().items() if key != "grid_rows"}
    assert new.grid_rows and not GatoConfig.from_json(before).grid_rows
    grid = MultiDiscrete(np.full((3, 4), 9))
    assert [
        SpaceTokenizer(grid, grid, new.vocabulary, values_per_token=64, grid_rows=rows).n_value_groups
        for rows in (True, False)
    ] == [
        3,
        1,
    ]
