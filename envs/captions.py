"""Captions above the frames of a video."""

from functools import lru_cache
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

NARROWEST = 320  # pixels of a frame with a caption; narrower ones are enlarged
SHARE = 1 / 26  # of a frame's width: size of the letters
INK, PAPER = (240, 240, 240), (24, 24, 28)


def captioned(frame: NDArray[np.uint8], title: str, status: str, lines: int = 1) -> NDArray[np.uint8]:
    """Frame below a strip with a title and a line of status.

    Args:
        frame: uint8 [height, width, 3]; one narrower than `NARROWEST` is enlarged by a whole factor.
        title: name or mission of the task; what does not fit is left out.
        status: short text that changes from frame to frame.
        lines: of the title, so that every title gives a strip of the same height.

    Returns:
        uint8 [taller, width, 3].
    """
    factor = -(-NARROWEST // frame.shape[1])
    if factor > 1:
        frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    width = frame.shape[1]
    font, row = _font(width)
    strip = Image.new("RGB", (width, row * (lines + 1) + row // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate([*_lines(title, width, lines), status]):
        draw.text((row // 3, row // 4 + number * row), line, fill=INK, font=font)
    return np.concatenate([np.asarray(strip), frame])


@lru_cache(maxsize=8)
def _font(width: int) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, int]:
    """Font for frames of a width, and the height of its lines in pixels."""
    size = max(12, round(width * SHARE))
    return ImageFont.load_default(size), round(1.25 * size)


@lru_cache(maxsize=64)
def _lines(title: str, width: int, lines: int) -> list[str]:
    """Lines of a title, the last one shortened if there are more than `lines`."""
    font, row = _font(width)
    room = (width - row // 3) / max(1.0, font.getlength("n"))
    return wrap(title, int(room), max_lines=lines, placeholder=" ...") or [""]
