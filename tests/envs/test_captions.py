"""Captions stand above the picture, which they leave as it is, and fit whatever they say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gato_agent.envs.captions import NARROWEST, captioned


def picture(height: int, width: int) -> Any:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(400, 600), (480, 480), (210, 160), (7, 5), (1, 1), (30, 1900)])
def test_the_picture_is_below_its_caption(height: int, width: int) -> None:
    frame = picture(height, width)
    factor = -(-NARROWEST // width)
    shown = captioned(frame, "A-v0", "return 3.0")
    assert shown.dtype == np.uint8 and shown.shape[1] == width * factor >= NARROWEST
    strip, below = shown[: -height * factor], shown[-height * factor :]
    np.testing.assert_array_equal(below[::factor, ::factor], frame)
    assert strip.max() > 200 and strip.min() < 30


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200), st.text(max_size=80), st.integers(1, 3))
def test_every_text_gives_the_same_size(title: str, status: str, lines: int) -> None:
    frame = picture(20, 400)
    assert captioned(frame, title, status, lines).shape == captioned(frame, "", "", lines).shape


def test_a_caption_changes_with_its_text() -> None:
    frame = picture(20, 400)
    assert (captioned(frame, "A-v0", "step 1") != captioned(frame, "A-v0", "step 2")).any()
    assert (captioned(frame, "A-v0", "") != captioned(frame, "B-v0", "")).any()
    one, two = (captioned(frame, "pick up the ball " * 8, "", lines) for lines in (1, 2))
    assert two.shape[0] > one.shape[0]
