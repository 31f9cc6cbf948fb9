"""Headers of safetensors files: every size is compared with the file before anything is allocated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gato_agent.envs.io.tensor_file import parse_header, read_header

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.int64), "c": np.ones((), np.uint8)}
DATA = save(ARRAYS, {"gato": '{"format": 1}'})
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def made(header: Any, rest: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def test_a_header_says_what_the_library_reads(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    header = read_header(tmp_path / "x")
    assert header == parse_header(DATA, len(DATA))
    assert header.about == {"format": 1}
    for name, array in ARRAYS.items():
        entry = header.entries[name]
        assert entry.shape == array.shape
        assert DATA[header.start + entry.begin : header.start + entry.end] == array.tobytes()
    assert parse_header(save({}), len(save({}))).about is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is longer than"),
        (b"\0" * 7, "is longer than"),
        (b"\xff" * 16, "is longer than"),
        ((10**12).to_bytes(8, "little") + b"{}", "is longer than"),
        (made(b"["), "Expecting"),
        (made([]), "no JSON object"),
        (made(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "nested"),
        (made({"a": ENTRY}, b"1234567"), "take 8 bytes and the file has 7"),
        (made({"a": ENTRY}, b"123456789"), "take 8 bytes and the file has 9"),
        (made({"a": ENTRY | {"shape": [10**18]}}, b"12345678"), "8 bytes for shape"),
        (made({"a": ENTRY | {"shape": [2, -1]}}, b"12345678"), "shape"),
        (made({"a": ENTRY | {"shape": [2.0]}}, b"12345678"), r"shape \[2\.0\] from 0 to 8"),
        (made({"a": ENTRY | {"shape": [1] * 100 + [2]}}, b"12345678"), "shape"),
        (made({"a": ENTRY | {"dtype": "OBJECT"}}, b"12345678"), "of OBJECT"),
        (made({"a": ENTRY | {"data_offsets": [-8, 0]}}, b"12345678"), "from -8 to 0"),
        (made({"a": ENTRY, "b": ENTRY}, b"12345678"), "begins at 0 instead of 8"),
        (made({"a": ENTRY | {"data_offsets": [8, 16]}}, b"1234567812345678"), "begins at 8 instead of 0"),
        (made({"a": {}}), "is described by"),
        (made({"a": 1}), "is described by"),
        (made({"__metadata__": {"gato": 1}}), "gato' is 1, not str"),
        (made({"__metadata__": {"gato": "[]"}}), "'gato' is no JSON object"),
        (made({"__metadata__": {"gato": "[" * 10_000}}), "nested"),
    ],
)
def test_what_does_not_fit_its_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_header(data, len(data))
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_header(tmp_path / "x")


def test_what_is_accepted_the_library_reads_too() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(DATA)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(DATA))] = rng.integers(256)
        try:
            header = parse_header(bytes(damaged), len(damaged))
        except ValueError:
            continue
        try:
            arrays = load(bytes(damaged))
        except (SafetensorError, KeyError, TypeError):  # such as a dtype that NumPy has not
            continue
        found = {name: array.shape for name, array in arrays.items()}
        assert found == {name: entry.shape for name, entry in header.entries.items()}
