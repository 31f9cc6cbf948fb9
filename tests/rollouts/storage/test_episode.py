"""Equal episodes have equal bytes, and damage is detected."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zstandard

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.storage.episode import Episode
from tests.helpers.episodes import assert_equal, episode, text


@pytest.mark.parametrize("labels", [True, False])
def test_reads_back_exactly(labels):
    written = episode(labels)
    read = Episode.from_bytes(written.to_bytes())
    assert_equal(read.observations, written.observations)
    assert_equal(read.actions, written.actions)
    assert_equal(read.targets, written.targets)
    assert (read.labels is None) == (not labels)
    np.testing.assert_array_equal(read.rewards, written.rewards)
    assert read.rewards.dtype == np.float64
    for name in ("terminated", "truncated", "success", "seed", "provenance"):
        assert getattr(read, name) == getattr(written, name)
    assert len(read) == 2
    assert read.total == written.total


@pytest.mark.parametrize("success", [None, False, True])
def test_success_is_one_of_three(success):
    assert Episode.from_bytes(replace(episode(), success=success).to_bytes()).success is success


def test_equal_episodes_are_equal_bytes_whatever_the_order_and_memory_layout():
    first = episode()
    backwards = dict(reversed(first.observations.items()))
    backwards["state/0"] = np.asfortranarray(backwards["state/0"])
    assert replace(first, observations=backwards).to_bytes() == first.to_bytes()
    assert Episode.from_bytes(first.to_bytes()).to_bytes() == first.to_bytes()


def test_the_header_is_one_json_entry_of_known_fields():
    data = episode().to_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header["__metadata__"]) == ["gato"]
    about = json.loads(header["__metadata__"]["gato"])
    known = {"format", "checksum", "terminated", "truncated", "success", "seed", "provenance", "grids"}
    assert about.keys() == known  # no time, host or path


def test_non_finite_provenance_is_refused_rather_than_written_as_no_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(episode(), provenance={"noise": float("nan")}).to_bytes()


def test_every_truncation_is_noticed():
    data = episode().to_bytes()
    for length in range(0, len(data), 7):
        with pytest.raises(GatoError, match="truncated or damaged"):
            Episode.from_bytes(data[:length])


def test_every_flipped_bit_of_the_arrays_is_noticed():
    data = episode().to_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for position in range(start, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(GatoError):
            Episode.from_bytes(bytes(damaged))


def test_random_damage_gives_the_named_error_or_the_same_arrays():
    data, rng = episode().to_bytes(), np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.integers(256)
        try:
            read = Episode.from_bytes(bytes(damaged))
        except GatoError:
            continue
        assert_equal(read.actions, episode().actions)


@pytest.mark.parametrize("group", ["observations", "actions", "labels"])
def test_wrong_numbers_of_rows_are_refused(group):
    whole = episode()
    columns = {path: column[:-1] for path, column in getattr(whole, group).items()}
    short = replace(whole, **{group: columns})  # type: ignore[arg-type]
    with pytest.raises(GatoError, match=f"{group} do not have"):
        Episode.from_bytes(short.to_bytes())


BOMB = zstandard.ZstdCompressor().compress(bytes(2**22))


@pytest.mark.parametrize(
    ("compressed", "shape", "refused"),
    [
        (BOMB, [4, 4, 3], "column of 4194304 bytes"),  # three rows have 144
        (BOMB[:6] + b"\0\0\0\x40" + BOMB[10:20], [2**14, 2**14, 4], "column of 1073741824 bytes"),  # 20 bytes say so
        (BOMB, [-1, 4, 3], "column of 4194304 bytes"),
    ],
)
def test_no_small_file_asks_for_much_memory(compressed, shape, refused):
    arrays, grids, *_ = episode().encode()
    arrays["observations.grid/image"] = np.frombuffer(compressed, np.uint8)
    grids["observations.grid/image"] = ["uint8", shape]
    about = {"terminated": True, "truncated": False, "success": None, "seed": 7, "provenance": {}}
    with pytest.raises(ValueError, match=f"^a compressed {refused}$"):
        Episode.decode(arrays, grids, about)


@pytest.mark.parametrize(("version", "way_out"), [(9, "upgrade gato-agent"), (1, "collect it again")])
def test_another_format_says_what_to_do(version, way_out):
    data = episode().to_bytes().replace(rb"\"format\":2", rb"\"format\":%d" % version)
    with pytest.raises(GatoError, match=f"format {version}, and this version reads 2: {way_out}"):
        Episode.from_bytes(data)


def test_every_changed_letter_of_its_json_is_noticed():
    data = episode().to_bytes()
    for old, new in (
        (b"random", b"expert"),
        (rb"\"seed\":7", rb"\"seed\":8"),
        (b"0.15", b"0.25"),
        (b"uint8", b"uint4"),
    ):
        assert old in data
        with pytest.raises(GatoError, match="damaged"):
            Episode.from_bytes(data.replace(old, new))


def test_grids_and_texts_are_small_and_numbers_can_be_mapped():
    frames = np.zeros((301, 210, 160, 3), np.uint8)
    numbers = np.arange(301.0)
    missions = text(["go to the red ball"] * 301)
    much = replace(episode(labels=False), observations={"image": frames, "mission": missions, "state": numbers},
                   actions={"": np.zeros(300, np.int64)}, rewards=np.zeros(300))  # fmt: skip
    data = much.to_bytes()
    assert len(data) < 20_000
    assert numbers.tobytes() in data
    assert much.size > frames.nbytes
    assert_equal(Episode.from_bytes(data).observations, much.observations)
