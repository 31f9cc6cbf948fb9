"""Zip files are read within limits that their own length sets, and their damage is a ValueError."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gato_agent.envs.io.zip_file import SPARE, read_members


def made(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def test_members_are_read_from_a_path_and_from_bytes(tmp_path: Path) -> None:
    data = made(a=b"1" * 1000, b=b"2")
    (tmp_path / "x").write_bytes(data)
    assert read_members(data) == read_members(tmp_path / "x") == {"a": b"1" * 1000, "b": b"2"}
    assert read_members(data, ["b"]) == {"b": b"2"}
    with pytest.raises(ValueError, match="no item named 'c'"):
        read_members(data, ["c"])
    with pytest.raises(FileNotFoundError):
        read_members(tmp_path / "none")


def test_a_small_file_of_much_is_refused_before_it_is_unpacked() -> None:
    bomb = made(data=bytes(100 * SPARE))
    assert len(bomb) < SPARE / 8
    with pytest.raises(ValueError, match="bytes that declares 104,857,600"):
        read_members(bomb, [])


def test_a_name_twice_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a", b"2")
    with pytest.raises(ValueError, match="a name twice"):
        read_members(buffer.getvalue())


def test_damage_is_a_value_error_or_changes_nothing() -> None:
    data, rng = made(a=np.random.default_rng(0).bytes(300), b=b"2" * 300), np.random.default_rng(1)
    whole = set(read_members(data).values())
    for _ in range(3000):
        damaged = bytearray(data)
        if rng.random() < 0.2:
            del damaged[rng.integers(len(data)) :]
        else:
            damaged[rng.integers(len(data))] = rng.integers(256)
        try:
            found = read_members(bytes(damaged))
        except ValueError:
            continue
        assert whole.issuperset(found.values())  # a name may be another, or gone
