"""A file survives a power loss only if every folder on the way to it does."""

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gato_agent.checkpoints.hub import read_scores
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs import files
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import (
    append,
    below,
    create,
    lock_folder,
    make_folder,
    open_own,
    read_named,
    read_own,
    write_files,
)  # fmt: skip
from gato_agent.evaluation.results import Results
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.experts.sb3.policy import Policy
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import read_filter
from gato_agent.tokens.text_tokenizer import TextTokenizer
from gato_agent.training.run import Run
from gato_agent.training.run_folder import prepare


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that were synced."""
    folders: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", folders.append)
    return folders


def test_files_are_there_whole_and_nothing_else(tmp_path: Path) -> None:
    contents = {tmp_path / "a" / "x": b"1", tmp_path / "b" / "c" / "y": b"2"}
    write_files(contents)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == contents


def test_every_new_folder_is_made_durable_in_the_one_above_it(tmp_path: Path, synced: list[Path]) -> None:
    write_files({tmp_path / "a" / "b" / "x": b"1"})
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    synced.clear()
    write_files({tmp_path / "a" / "b" / "x": b"2"})
    assert synced == [tmp_path / "a" / "b"]


def test_a_relative_folder_is_made_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: list[Path]) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(Path("data/new"))
    assert (tmp_path / "data" / "new").is_dir()
    assert synced == [Path(), Path("data")]


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    for folder in (tmp_path / "data", tmp_path / "data" / "new"):
        with pytest.raises(UsageError, match="data is a file, and a folder of this name is needed"):
            make_folder(folder)


def test_no_write_follows_a_link(tmp_path: Path) -> None:
    folder, victim, missing = tmp_path / "folder", tmp_path / "victim", tmp_path / "missing"
    folder.mkdir()
    victim.write_bytes(b"mine")
    for target in (victim, missing):
        for name in ("x", ".x.partial"):
            (folder / name).symlink_to(target)
        write_files({folder / "x": b"new"})
        assert (folder / "x").read_bytes() == b"new" and not (folder / "x").is_symlink()
        with create(folder / "x") as file:
            file.write(b"newer")
        assert victim.read_bytes() == b"mine" and not missing.exists()
        (folder / "x").unlink()


def test_a_file_with_another_name_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".x.partial").hardlink_to(victim)
    write_files({tmp_path / "x": b"new"})
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("use", [append, open_own, read_own, lambda path: lock_folder(path.parent, "collect")])
def test_what_is_no_file_of_its_own_is_refused_by_name(tmp_path: Path, use: Any) -> None:
    victim, path = tmp_path / "victim", tmp_path / "folder" / ".lock"
    path.parent.mkdir()
    for target in (victim, tmp_path):
        path.symlink_to(target)
        with pytest.raises(UsageError, match=r"\.lock is a link, and links inside a folder are not followed: "):
            use(path)
        path.unlink()
    assert not victim.exists()
    os.mkfifo(path)  # which would be waited for
    with pytest.raises((UsageError, OSError), match=r"is no regular file|No such device"):
        use(path)


def strange(path: Path, kind: str) -> None:
    """Make something that is no file of the usual size."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path.relative_to(Path.cwd())))  # its path may have few characters
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(10**12)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # name of the file in a folder, and its reader
    "own": ("file", read_own),
    "named": ("file", read_named),
    "task": ("task.json", lambda path: EpisodeStore(path.parent)),
    "filter": ("keep.json", lambda path: read_filter(path.parent)),
    "results": ("results.json", Results.load),
    "text model": ("text.model", TextTokenizer.from_file),
    "policy": ("expert.safetensors", Policy.from_file),
    "run": ("config.json", lambda path: prepare(path.parent, {"steps": 1}, resume=True, may_change=("steps",))),
    "scores": ("results.json", read_scores),
}


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device", "sparse"])
@pytest.mark.parametrize("reader", list(READERS))
def test_what_is_no_file_or_a_huge_one_is_one_named_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reader: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name, read = READERS[reader]
    strange(tmp_path / name, kind)
    with pytest.raises(GatoError, match=re.escape(str(tmp_path))):  # at once: neither MemoryError nor a wait
        read(tmp_path / name)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_own(tmp_path / "x")
    with append(tmp_path / "x") as file:
        file.write(b"a")
    with append(tmp_path / "x") as file:
        file.write(b"b")
    assert read_own(tmp_path / "x") == b"ab"


def test_a_folder_that_the_user_named_may_be_a_link_and_one_inside_it_may_not(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    write_files({tmp_path / "data" / "x": b"1"})
    assert (tmp_path / "disk" / "x").read_bytes() == b"1"
    assert below(tmp_path / "data", "new") == tmp_path / "data" / "new"
    (tmp_path / "disk" / "new").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="new is a link"):
        below(tmp_path / "data", "new")


@pytest.mark.parametrize("how", ["moved", "removed", "replaced", "above"])
def test_a_locked_folder_that_is_gone_is_not_made_again(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "data" / "task"
    with lock_folder(folder, "collect"):
        write_files({folder / "x": b"1", folder / "best" / "y": b"2"})
        (folder / ".lock").unlink()  # is no part of what belongs there
        write_files({folder / "x": b"2"})
        moved = folder.parent if how == "above" else folder
        if how == "removed":
            shutil.rmtree(folder)
        else:
            moved.rename(tmp_path / "elsewhere")
        if how == "replaced":
            folder.mkdir()
        before = sorted(tmp_path.rglob("*"))
        for path in (folder / "x", folder / "best" / "y"):
            with pytest.raises(GatoError, match=f"^{folder} was moved or removed while it was written to"):
                write_files({path: b"3"})
        write_files({tmp_path / "other" / "z": b"4"})
        assert {*before, tmp_path / "other", tmp_path / "other" / "z"} == set(tmp_path.rglob("*"))
    write_files({folder / "x": b"5"})  # the lock is released


def test_a_folder_that_is_gone_stops_collecting_and_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(folder: Path) -> None:
        folder.rename(tmp_path / "elsewhere")

    commit = EpisodeStore.commit
    monkeypatch.setattr(EpisodeStore, "commit", lambda store, group: (gone(tmp_path / "data"), commit(store, group)))
    config = CollectConfig(env=("CartPole-v1",), expert="random", episodes=2, workers=0, out=tmp_path / "data")
    with pytest.raises(GatoError, match=r"data/CartPole-v1 was moved or removed while it was written to"):
        collect(config)
    assert not (tmp_path / "data").exists()
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "elsewhere")
    collect(config)
    entries = Run.steps

    def steps(run: Run) -> Iterator[dict[str, Any]]:
        for entry in entries(run):
            gone(tmp_path / "run")
            yield entry

    monkeypatch.setattr(Run, "steps", steps)
    with pytest.raises(GatoError, match=r"run was moved or removed while it was written to"):
        train(TrainConfig(data=(tmp_path / "data",), out=tmp_path / "run", steps=3, batch_size=1, num_threads=1))
    assert not (tmp_path / "run").exists()
