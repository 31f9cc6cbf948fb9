"""JSON is read strictly, in bounded time and memory; a digest tells what was changed since it was written."""

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gato_agent.envs.io.strict_json import MOST_DEPTH, checked_digest, digest, parse, record, typed, with_digest

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_what_json_writes_is_read_as_it_was(value: Any) -> None:
    assert parse(json.dumps(value)) == value
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False)) == value


@given(st.text())
def test_any_text_is_json_or_a_value_error(text: str) -> None:
    found: list[Any] = []
    for read in (json.loads, partial(parse, finite=False)):
        try:
            found.append(read(text))
        except ValueError:
            found.append(ValueError)
    assert repr(found[0]) == repr(found[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested"),
        ('["[[[[[", ' + "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1) + "]", "nested"),
        ("9" * 5000, "5,000 digits"),
        ("[1e999]", "beyond float64"),
        ("-" + "9" * 400 + ".5", "beyond float64"),
        ("NaN", "NaN, which is not JSON"),
        ("[-Infinity]", "-Infinity, which is not JSON"),
        ('{"a": 1, "a": 2}', "a key twice"),
        ('{"a": {"b": 1, "b": 1}}', "a key twice"),
        (b"\xff", "decode"),
        (b'"\xed\xa0\x80"', "decode"),
        ("", "Expecting value"),
    ],
)
def test_what_is_no_strict_json_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_limits_count_values_and_not_the_signs_inside_of_strings() -> None:
    words = json.dumps(['a, [b], {c}, \\"' * 50] * 10)
    assert len(parse(words, entries=10)) == 10
    with pytest.raises(ValueError, match="more than 9 values"):
        parse(words, entries=9)
    with pytest.raises(ValueError, match="bytes of JSON, more than 10"):
        parse(words, most=10)
    assert parse("[" * MOST_DEPTH + "]" * MOST_DEPTH) is not None


@given(st.dictionaries(st.text(), PLAIN))
def test_an_object_with_a_digest_is_read_back_and_repeats(data: dict[str, Any]) -> None:
    data.pop("digest", None)
    assert checked_digest(with_digest(data)) == checked_digest(with_digest(data, indent=1, sort_keys=True)) == data
    assert with_digest(data) == with_digest(dict(data))
    assert digest(data) == digest(dict(reversed(data.items())))  # whatever its order
    assert checked_digest(json.dumps(data).encode()) == data  # as earlier versions wrote it


@settings(max_examples=50)
@given(st.dictionaries(st.text(), PLAIN, min_size=1), st.data())
def test_no_changed_byte_below_a_digest_changes_what_is_read(data: dict[str, Any], draw: st.DataObject) -> None:
    data.pop("digest", None)
    text = bytearray(with_digest(data))
    at, value = draw.draw(st.integers(0, len(text) - 1)), draw.draw(st.integers(0, 255))
    text[at] = value
    try:
        found = checked_digest(bytes(text))
    except ValueError:
        return
    others = found.keys() - data.keys()  # at most the name of the digest itself, if that has changed
    assert len(others) <= 1
    assert {key: found[key] for key in found.keys() - others} == data


def test_tuples_and_keys_that_are_numbers_have_the_digest_of_what_is_read() -> None:
    assert checked_digest(with_digest({"a": (1, 2), "b": {10: 1, 9: 2}})) == {"a": [1, 2], "b": {"10": 1, "9": 2}}
    with pytest.raises(ValueError, match="JSON compliant"):
        with_digest({"a": float("nan")})


@dataclass(frozen=True)
class Point:
    x: float
    kind: Literal["a", "b"]
    name: str | None = None
    pair: tuple[float, float] | None = None
    many: tuple[int, ...] = ()
    more: dict[str, list[bool]] = field(default_factory=dict)


def test_a_record_has_the_types_of_its_fields() -> None:
    data = {"x": 3, "kind": "a", "pair": [1, 2.5], "many": [1, 2], "more": {"k": [True]}, "name": None}
    point = record(Point, data)
    assert point == Point(3.0, "a", None, (1.0, 2.5), (1, 2), {"k": [True]})
    assert type(point.x) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "3"}, "x is '3', not float"),
        ({"x": True}, "x is True, not float"),
        ({"x": 2**60}, "x is 1152921504606846976, not float"),
        ({"x": None}, "x is None, not float"),
        ({"kind": "c"}, "kind is 'c'"),
        ({"name": 1}, "name is 1, not str or NoneType"),
        ({"pair": [1]}, r"pair is \[1\]"),
        ({"many": [1.0]}, r"many is 1\.0, not int"),
        ({"many": 1}, "many is 1"),
        ({"more": {"k": [0]}}, "more 'k' is 0, not bool"),
        ({"other": 1}, "unknown key 'other'"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        record(Point, {"x": 1.0, "kind": "a", **change})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"^no kind$"):
        record(Point, {"x": 1.0})
    with pytest.raises(ValueError, match="instead of an object"):
        record(Point, [1.0])
    assert typed([1, 2], list[int], "x") == [1, 2]
