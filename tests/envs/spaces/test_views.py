"""Views are lossless in what they keep, and an invalid or unsuitable view is named."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Text, Tuple
from hypothesis import given
from hypothesis import strategies as st

from gato_agent.envs.errors import GatoError, SpaceError
from gato_agent.envs.spaces.flatten import columns, leaves
from gato_agent.envs.spaces.views import EVERYTHING, View

GRID = Box(0, 255, (7, 7, 3), np.uint8)
LEVEL = Dict(image=GRID, direction=Discrete(4), mission=Text(9))
ROBOT = Box(np.array([-1.0, 0.0, -np.inf, 2.0]), np.array([1.0, 4.0, np.inf, 3.0]), dtype=np.float64)

seeds = st.integers(0, 2**32 - 1)


def seen(view: list[Any], space: Space[Any], batch: Any) -> dict[str, Any]:
    """Columns of a view, checked against the view's space."""
    made = View.from_json(json.loads(json.dumps(view)))
    assert made == View.from_json(made.to_json())
    found = made.columns(columns(space, batch))
    declared = {leaf.path: leaf.space for leaf in leaves(made.space(space))}
    assert found.keys() == declared.keys()
    for path, column in found.items():
        if not isinstance(declared[path], Text):
            assert column.shape[1:] == declared[path].shape
            assert column.dtype == declared[path].dtype
    return found


@given(seed=seeds, rows=st.integers(1, 5), index=st.lists(st.integers(0, 3), min_size=1))
def test_select_keeps_these_elements(seed: int, rows: int, index: list[int]) -> None:
    batch = np.random.default_rng(seed).normal(size=(rows, 4))
    np.testing.assert_array_equal(seen([{"select": "", "index": index}], ROBOT, batch)[""], batch[:, index])
    box = View.from_json([{"select": "", "index": [3, 2]}]).space(ROBOT)
    assert box == Dict({"": Box(np.array([2.0, -np.inf]), np.array([3.0, np.inf]), dtype=np.float64)})


@given(seed=seeds, rows=st.integers(1, 5), near=st.floats(-1e3, 1e3), width=st.floats(1e-3, 1e3))
def test_scale_can_be_undone(seed: int, rows: int, near: float, width: float) -> None:
    low = np.full(4, near) + np.arange(4)
    high = low + width
    batch = low + (high - low) * np.random.default_rng(seed).random((rows, 4))
    found = seen([{"scale": "", "low": low.tolist(), "high": high.tolist()}], ROBOT, batch)[""]
    assert -1 - 1e-9 <= found.min() <= found.max() <= 1 + 1e-9
    np.testing.assert_allclose(low + (found + 1) / 2 * (high - low), batch, rtol=1e-9, atol=1e-9)


@given(seed=seeds, rows=st.integers(1, 5), sizes=st.lists(st.integers(1, 10), min_size=3, max_size=3))
def test_cells_hold_their_digits(seed: int, rows: int, sizes: list[int]) -> None:
    batch = np.random.default_rng(seed).integers(0, sizes, (rows, 7, 7, 3)).astype(np.uint8)
    found = seen([{"cells": "", "sizes": sizes}], GRID, batch)[""]
    assert View.from_json([{"cells": "", "sizes": sizes}]).space(GRID) == Dict(
        {"": MultiDiscrete(np.full((7, 7), np.prod(sizes)))}
    )
    assert found.max() < np.prod(sizes)
    digits = []
    for size in sizes[::-1]:
        digits.append(found % size)
        found = found // size
    np.testing.assert_array_equal(np.stack(digits[::-1], axis=-1), batch)


@given(seed=seeds, rows=st.integers(1, 4), side=st.tuples(st.integers(1, 16), st.integers(1, 16)), c=st.integers(1, 9))
def test_planes_can_be_read_off_the_image(seed: int, rows: int, side: tuple[int, int], c: int) -> None:
    rng = np.random.default_rng(seed)
    times = rng.integers(1, 26, c)
    batch = rng.integers(0, 11, (rows, *side, c)).astype(np.uint8)
    found = seen([{"planes": "", "times": times.tolist()}], Box(0, 255, (*side, c), np.uint8), batch)[""]
    assert found.shape == (rows, 16, 16 * -(-c // 4), 4)
    channels = np.concatenate(np.split(found, found.shape[2] // 16, axis=2), axis=3)
    np.testing.assert_array_equal(channels[:, : side[0], : side[1], :c] // times, batch)
    assert not channels[:, side[0] :].any() and not channels[:, :, side[1] :].any() and not channels[..., c:].any()


@given(seed=seeds, rows=st.integers(1, 2), c=st.sampled_from([1, 3]), top=st.integers(0, 8))
def test_fold_holds_the_brightness_of_its_rows(seed: int, rows: int, c: int, top: int) -> None:
    batch = np.random.default_rng(seed).integers(0, 256, (rows, 50, 36, c)).astype(np.uint8)
    found = seen([{"fold": "", "rows": [top, top + 40]}], Box(0, 255, (50, 36, c), np.uint8), batch)[""]
    opened = found.reshape(rows, 20, 18, 2, 2).transpose(0, 1, 3, 2, 4).reshape(rows, 40, 36)
    np.testing.assert_array_equal(opened, np.rint(batch[:, top : top + 40].mean(axis=3)))


def test_planes_of_bits_are_seen_too() -> None:
    batch = np.random.default_rng(0).random((2, 10, 10, 6)) < 0.5
    found = seen([{"planes": "", "times": [255] * 6}], Box(0, 1, (10, 10, 6), np.bool_), batch)[""]
    np.testing.assert_array_equal(found[:, :10, :10] == 255, batch[..., :4])


def test_other_leaves_stay_and_steps_follow_each_other() -> None:
    space = Dict(level=LEVEL, robot=Tuple([ROBOT]))
    space.seed(0)
    value = space.sample(mask=None)
    value["level"]["image"] = np.zeros((7, 7, 3), np.uint8)
    batch = {
        "level": {key: [item] for key, item in value["level"].items()},
        "robot": ([np.array([0.1, 0.2, 0.3, 0.4])],),
    }
    view = [
        {"drop": "level/direction"},
        {"select": "robot/0", "index": [1, 3]},
        {"scale": "robot/0", "low": [0, 0], "high": [1, 1]},
    ]
    found = seen(view, space, batch)
    assert set(found) == {"level~1image", "level~1mission", "robot~10"}
    np.testing.assert_allclose(found["robot~10"], [[-0.6, -0.2]])
    assert found["level~1mission"][0] == value["level"]["mission"]


def test_without_steps_all_is_seen_as_it_is() -> None:
    assert EVERYTHING.space(LEVEL) is LEVEL
    batch = {"": np.zeros((1, 4))}
    assert EVERYTHING.columns(batch) is batch
    assert EVERYTHING.to_json() == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"^a view is a list of steps, not \{\}$"),
        (["drop"], r"^step 0 of the view is 'drop', not one of drop, select, scale, cells, planes, fold$"),
        ([{"drop": "a"}, {"eval": "1"}], r"^step 1 of the view is \{'eval': '1'\}, not one of"),
        ([{"drop": "a", "select": "b"}], r"not one of"),
        ([{"drop": 1}], r"^step 0 of the view: drop takes the path of a leaf and nothing else$"),
        ([{"select": "a"}], r"^step 0 of the view: select takes the path of a leaf and index$"),
        ([{"select": "a", "index": [0], "more": 1}], r"takes the path of a leaf and index$"),
        ([{"select": "a", "index": "0"}], r"^step 0 of the view: index is '0', not a list of type int$"),
        ([{"select": "a", "index": [0.0]}], r"index is \[0.0\], not a list of type int$"),
        ([{"select": "a", "index": [True]}], r"index is \[True\], not a list of type int$"),
        ([{"scale": "a", "low": [0.0], "high": ["1"]}], r"high is \['1'\], not a list of type float$"),
        ([{"scale": "a", "low": [0.0], "high": [float("inf")]}], r"high has a number that is not finite$"),
        ([{"scale": "a", "low": [10**400], "high": [1]}], r"low has a number that is not finite$"),
        ([{"select": "a", "index": [10**400]}], r"index has a number that is not finite$"),
    ],
)
def test_what_is_no_view_is_named(data: Any, message: str) -> None:
    with pytest.raises(GatoError, match=message):
        View.from_json(data)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"drop": "map"}, r"^'map': is not among the observation's leaves \['direction', 'image', 'mission'\]"),
        ({"select": "mission", "index": [0]}, r"^'mission': is Text\(.*\), and select needs a Box$"),
        ({"select": "image", "index": []}, r"^'image': select \[\] of 147 elements$"),
        ({"select": "image", "index": [147]}, r"^'image': select \[147\] of 147 elements$"),
        ({"select": "image", "index": [-1]}, r"^'image': select \[-1\] of 147 elements$"),
        ({"scale": "image", "low": [0], "high": [1]}, r"^'image': scale needs low < high for each of 147 elements$"),
        ({"scale": "image", "low": [1] * 147, "high": [1] * 147}, r"^'image': scale needs low < high"),
        ({"cells": "image", "sizes": [11, 6]}, r"^'image': cells of \[11, 6\] digits in Box.*: one size for each"),
        ({"cells": "image", "sizes": [11, 6, 0]}, r"one size for each channel$"),
        ({"cells": "image", "sizes": [2**31, 2**31, 2**31]}, r"^'image': cells of \d+ values$"),
        ({"fold": "image", "rows": [0, 6]}, r"^'image': fold of rows 0 to 6 of Box.*: sides must be even, and 32"),
        (
            {"fold": "image", "rows": [0]},
            r"^'image': fold of Box.*: frames .* and two rows are needed$",
        ),
        (
            {"planes": "image", "times": [1]},
            r"^'image': planes of Box.*: at most 16 x 16 cells, one factor per channel$",
        ),
        ({"planes": "image", "times": [1, 1, 0]}, r"whole numbers are needed$"),
    ],
)
def test_a_step_that_does_not_suit_the_space_is_named(step: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        View.from_json([step]).space(LEVEL)


def test_planes_of_no_channels_are_none() -> None:
    with pytest.raises(SpaceError, match=r"^planes of Box.* times \[\]: whole numbers are needed$"):
        View.from_json([{"planes": "", "times": []}]).space(Box(0, 255, (3, 3, 0), np.uint8))


def test_something_must_be_left() -> None:
    with pytest.raises(SpaceError, match=r"^the view drops every leaf$"):
        View.from_json([{"drop": ""}]).space(ROBOT)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"cells": "", "sizes": [11, 6, 3]}, r"^element \[2, 3, 1\] is 6, beyond the 6 values of its view$"),
        ({"planes": "", "times": [20, 50, 127]}, r"^element \[2, 3, 1\] is 6, beyond the range of its view$"),
    ],
)
def test_a_value_that_would_be_lost_is_named(step: dict[str, Any], message: str) -> None:
    batch = np.zeros((3, 7, 7, 3), np.uint8)
    batch[1, 2, 3, 1] = 6
    with pytest.raises(SpaceError, match=message) as caught:
        View.from_json([step]).columns({"": batch})
    assert caught.value.row == 1
