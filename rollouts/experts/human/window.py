"""Window that shows an environment, and the keys that are held in it."""

import os
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import UsageError, one_line
from gato_agent.rollouts.experts.human.gamepads import Gamepads
from gato_agent.rollouts.experts.human.keys import PAUSE

INVISIBLE = ("dummy", "offscreen")  # drivers that SDL falls back to
CLOSED = "the window's close button"  # reported like a key
SMALLEST = 420  # pixels to which the larger side of a small image is enlarged
WIDTH, LINE = 560, 22  # least width of the window and height of a line of text, pixels
REPEAT = 300  # milliseconds until a held key repeats, where each step waits for a key


def start_pygame() -> None:
    """Start pygame's display; raises UsageError without pygame or without a display."""
    try:
        import pygame
    except ImportError as error:
        raise UsageError(
            f"--expert human needs pygame ({one_line(error)}): pip install 'gymnasium[classic-control]'"
        ) from error
    try:
        pygame.display.init()
        pygame.font.init()
        if pygame.display.get_driver() in INVISIBLE and "SDL_VIDEODRIVER" not in os.environ:
            pygame.display.quit()
            raise pygame.error("the display cannot be reached")
    except (pygame.error, NotImplementedError) as error:
        raise UsageError(
            f"--expert human: no window can be opened ({one_line(error)}): run it on a desktop, or set DISPLAY to one"
        ) from error


def close_window() -> None:
    """Close the window, if there is one."""
    if pygame := sys.modules.get("pygame"):
        pygame.display.quit()


class Window:
    """A window with an image, lines of text below it, and the state of keyboard and gamepads."""

    def __init__(self, repeat: float = 0.0) -> None:
        """Make a window that opens when it is drawn.

        Args:
            repeat: repetitions of a held key per second; 0 for none.
        """
        import pygame

        self._pygame = pygame
        self._repeat = repeat
        self._clock = pygame.time.Clock()
        self._pads = Gamepads()
        self._keys: dict[str, float] = {}
        self._new: set[str] = set()  # pressed since the last action: they count even if they were released
        self._late: set[str] = set()  # released since the last action, and pressed since then too
        self._from_pads: deque[str] = deque()

    def draw(self, image: NDArray[np.uint8], title: str, lines: Sequence[str]) -> None:
        """Show an image, uint8 [height, width, 3], a title, and lines of text."""
        pg, (height, width, _) = self._pygame, image.shape
        zoom = max(1, SMALLEST // max(height, width))
        size = max(WIDTH, width * zoom), height * zoom + LINE * len(lines) + LINE // 2
        screen = self._open(size)
        picture = pg.image.frombuffer(np.ascontiguousarray(image).tobytes(), (width, height), "RGB")
        picture = pg.transform.scale(picture, (width * zoom, height * zoom))
        screen.fill((24, 24, 24))
        screen.blit(picture, ((size[0] - width * zoom) // 2, 0))
        font = pg.font.Font(None, LINE)
        for i, line in enumerate(lines):
            screen.blit(font.render(line, True, (230, 230, 230)), (8, height * zoom + LINE * i + LINE // 3))
        pg.display.set_caption(title)
        pg.display.flip()

    def _open(self, size: tuple[int, int]) -> Any:
        """The window's surface; opened again if an environment that was closed has taken pygame with it."""
        screen = self._pygame.display.get_surface() if self._pygame.display.get_init() else None
        if screen is None or screen.get_size() != size:
            start_pygame()
            screen = self._pygame.display.set_mode(size)
            if self._repeat:
                self._pygame.key.set_repeat(REPEAT, max(1, round(1000 / self._repeat)))
            else:
                self._pygame.key.set_repeat()
            self._pads.search()
        return screen

    def tick(self, fps: float) -> None:
        """Wait for the rest of a frame's time; frames per second."""
        self._clock.tick(fps)

    @property
    def held(self) -> dict[str, float]:
        """Deflection of each key that is held or was pressed since the last action, the latest last."""
        return self._pads.held() | self._keys

    def next_key(self) -> str | None:
        """Next key that was pressed, CLOSED for the close button, PAUSE without the focus; None if there is none."""
        pg = self._pygame
        self._from_pads.extend(self._pads.pressed())
        while (event := pg.event.poll()).type != pg.NOEVENT:
            name = str(pg.key.name(event.key)) if event.type in (pg.KEYDOWN, pg.KEYUP) else ""
            if event.type == pg.QUIT:
                return CLOSED
            if event.type == pg.KEYDOWN and name:
                self._keys.pop(name, None)
                self._keys[name] = 1.0
                self._new.add(name)
                self._late.discard(name)
                return name
            if event.type == pg.KEYUP:
                self._release(name)
            if event.type == pg.WINDOWFOCUSLOST:
                self._keys.clear()
                return PAUSE
            if event.type in (pg.JOYDEVICEADDED, pg.JOYDEVICEREMOVED):
                self._pads.search()
        return self._from_pads.popleft() if self._from_pads else None

    def _release(self, name: str) -> None:
        if name in self._new:
            self._late.add(name)
        else:
            self._keys.pop(name, None)

    def settle(self) -> None:
        """Forget the keys that were pressed and released since the last action."""
        for name in self._late:
            self._keys.pop(name, None)
        self._new.clear()
        self._late.clear()
