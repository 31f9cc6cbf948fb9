"""A person at a window: a script of events, one entry a frame, which are posted as pygame does."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gato_agent.rollouts.experts.human.window import Window

Frame = str | Callable[[Window], object]


def post(words: str) -> None:
    """Post the events of a frame: `left` is pressed and released, `+left` pressed, `-left` released, `close`."""
    import pygame

    for word in words.split():
        name = word.removeprefix("+").removeprefix("-").replace("_", " ")
        if name == "close":
            pygame.event.post(pygame.event.Event(pygame.QUIT))
        elif name == "leave":
            pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
        else:
            kinds = {"+": [pygame.KEYDOWN], "-": [pygame.KEYUP]}.get(word[0], [pygame.KEYDOWN, pygame.KEYUP])
            for kind in kinds:
                pygame.event.post(pygame.event.Event(kind, key=pygame.key.key_code(name)))


class Person:
    """A script of frames and the lines that were shown in each.

    Attributes:
        shown: title and lines of each image.
        rates: frames per second of each wait.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, frames: Sequence[Frame]) -> None:
        self.frames, self.shown, self.rates = list(frames), list[list[str]](), list[float]()
        self.images: list[Any] = []
        draw = Window.draw

        def drawn(window: Window, image: Any, title: str, lines: Sequence[str]) -> None:
            self.shown.append([title, *lines])
            self.images.append(image)
            draw(window, image, title, lines)

        def tick(window: Window, fps: float) -> None:
            self.rates.append(fps)
            assert self.frames, ("the script is over", self.shown[-1])
            frame = self.frames.pop(0)
            if callable(frame):
                frame(window)
            else:
                post(frame)

        monkeypatch.setattr(Window, "draw", drawn)
        monkeypatch.setattr(Window, "tick", tick)
