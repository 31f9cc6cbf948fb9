"""A file survives a power loss only if every folder on the way to it does."""

from pathlib import Path

import pytest

from gato_agent.envs import files
from gato_agent.envs.files import make_folder, write_files


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders whose new names were made durable."""
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
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "data")
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "data" / "new")


def test_a_folder_takes_its_place_as_a_whole_and_those_of_the_dead_are_removed(tmp_path):
    (tmp_path / ".begun-dead").mkdir()
    (tmp_path / ".begun-dead" / "half").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".begun-link").symlink_to(tmp_path / "elsewhere")
    with files.temporary_folder(tmp_path, ".begun-") as first, files.temporary_folder(tmp_path, ".begun-") as second:
        assert first.is_dir()  # the second does not take the first for dead
        for folder in (first, second):
            (folder / "all" / "of").mkdir(parents=True)
            (folder / "all" / "of" / "it").write_text(folder.name)
        assert files.place_folder(first / "all", tmp_path / "place")
        assert not files.place_folder(second / "all", tmp_path / "place")
    assert (tmp_path / "place" / "of" / "it").read_text() == first.name
    assert sorted(path.name for path in tmp_path.iterdir()) == [".begun-link", "elsewhere", "place"]
