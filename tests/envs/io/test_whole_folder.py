"""A folder appears under its name when it is complete, and leftovers of killed processes are removed."""

from pathlib import Path

from gato_agent.envs.io.whole_folder import place_folder, temporary_folder


def test_a_folder_takes_its_place_as_a_whole_and_those_of_the_dead_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".begun-dead").mkdir()
    (tmp_path / ".begun-dead" / "half").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".begun-link").symlink_to(tmp_path / "elsewhere")
    with temporary_folder(tmp_path, ".begun-") as first, temporary_folder(tmp_path, ".begun-") as second:
        assert first.is_dir()  # the second does not take the first for dead
        for folder in (first, second):
            (folder / "all" / "of").mkdir(parents=True)
            (folder / "all" / "of" / "it").write_text(folder.name)
        assert place_folder(first / "all", tmp_path / "place")
        assert not place_folder(second / "all", tmp_path / "place")
    assert (tmp_path / "place" / "of" / "it").read_text() == first.name
    assert sorted(path.name for path in tmp_path.iterdir()) == [".begun-link", "elsewhere", "place"]
