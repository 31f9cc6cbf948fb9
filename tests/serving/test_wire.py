"""Frames: what goes in comes out, and nothing else is read."""

import contextlib
import pickle
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gato_agent.serving.wire import CODES, WireError, pack, unpack

numbers = st.sampled_from(CODES).flatmap(lambda code: arrays.arrays(np.dtype(code), arrays.array_shapes(min_side=0)))


@given(numbers)
def test_arrays_come_back_as_they_were_and_are_the_readers_own(array: np.ndarray[Any, Any]) -> None:
    back = unpack(pack({"a": array}))["a"]
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


def test_nested_values_scalars_texts_and_strided_arrays_come_back() -> None:
    strided = np.arange(12).reshape(3, 4).T[::2]
    message = {"d": {"t": (1, None, True, 2.5)}, "s": np.float32(0.5), "n": np.int64(3), "x": strided}
    back = unpack(pack(message))
    np.testing.assert_array_equal(back.pop("x"), strided)
    assert back == {"d": {"t": (1, None, True, 2.5)}, "s": np.float32(0.5), "n": 3}
    assert type(back["n"]) is np.int64
    assert (
        unpack(pack(np.array(["go", "stop"], dtype=object))) == unpack(pack(np.array(["go", "stop"]))) == ("go", "stop")
    )
    assert unpack(pack(np.array([1.5], dtype=">f8"))).tolist() == [1.5]


def test_a_writer_in_another_language_may_use_text_for_the_keys_of_arrays() -> None:
    array = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]}
    assert unpack(msgpack.packb({"observation": array}))["observation"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, 1j, np.array([1j]), np.array([object()]), np.zeros(2, "i4,f4"), 2**70]
)
def test_other_values_are_not_sent(value: Any) -> None:
    with pytest.raises(WireError, match="a message cannot hold this value"):
        pack({"observation": value})


def described(**changes: Any) -> bytes:
    entries = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2], **changes}
    return msgpack.packb({name.encode(): value for name, value in entries.items()})  # type: ignore[no-any-return]


@pytest.mark.parametrize("frame", [
    b"", b"\xc1", b"\x92\x01", b"\x01\x02", pickle.dumps({"a": 1}), b"GET / HTTP/1.1\r\n", b"\x91" * 100_000,
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xa1\xff",
    msgpack.packb([None] * 70_000), msgpack.packb(msgpack.ExtType(5, b"x")), msgpack.packb({1: 2}),
    *(described(dtype=dtype) for dtype in ("O", "|O", "<c8", "V4", "<i4,<f4", "<M8[s]", "<U4", "f4" * 9999, 3, None)),
    *(described(shape=shape) for shape in ([3], [2, 2**62], [-2], [-1, -2], [2.0], ["2"], 2, None, [1] * 33, [])),
    *(described(data=data) for data in (bytes(7), b"", "12345678", [0] * 8, None)),
    msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}),
    msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|i1"}),
    msgpack.packb({b"__npgeneric__": True, b"data": 0, b"dtype": "O"}),
])  # fmt: skip
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        unpack(frame)


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(frame: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack(frame)


def test_bytes_above_one_are_true() -> None:
    frame = msgpack.packb({b"__ndarray__": True, b"data": b"\x00\x01\x02\xff", b"dtype": "|b1", b"shape": [4]})
    assert unpack(frame).view(np.uint8).tolist() == [0, 1, 1, 1]
