"""Sticks and buttons of gamepads as held keys."""

from collections.abc import Callable, Iterable
from typing import Any

from gato_agent.rollouts.experts.human.keys import HELD, KEEP, PAD, UNDO

STICKS = (("left", "right"), ("up", "down"), ("a", "d"), ("w", "s"))  # keys of the axes 0 to 3, negative and positive
BUTTONS = {0: "space", 6: UNDO, 7: KEEP}  # A, Back and Start of the usual layout; others are `button 1`, ...
DEAD = 0.15  # deflection that counts as none


class Gamepads:
    """State of all gamepads.

    Args:
        find: function that returns the connected ones, as pygame's `Joystick`.
    """

    def __init__(self, find: Callable[[], Iterable[Any]] | None = None) -> None:
        self._find = find or connected
        self._pads: list[Any] = list(self._find())
        self._down: set[str] = set()

    def search(self) -> None:
        """Find gamepads again, after one was connected or removed."""
        self._pads = list(self._find())

    def held(self) -> dict[str, float]:
        """Deflection of the keys for which sticks, hats and buttons stand, above 0 to 1."""
        held: dict[str, float] = {}
        for pad in self._pads:
            for axis, keys in zip(range(pad.get_numaxes()), STICKS, strict=False):
                _deflect(held, keys, pad.get_axis(axis))
            for hat in range(pad.get_numhats()):
                x, y = pad.get_hat(hat)
                _deflect(held, STICKS[0], x)
                _deflect(held, STICKS[1], -y)
            for button in range(pad.get_numbuttons()):
                if pad.get_button(button):
                    held |= {f"{PAD}{button}": 1.0} | ({BUTTONS[button]: 1.0} if button in BUTTONS else {})
        return held

    def pressed(self) -> list[str]:
        """Keys that are held and were not at the last call."""
        down = {key for key, strength in self.held().items() if strength > HELD}
        new, self._down = sorted(down - self._down), down
        return new


def _deflect(held: dict[str, float], keys: tuple[str, str], value: float) -> None:
    if abs(value) > DEAD:
        key = keys[value > 0]
        held[key] = max(held.get(key, 0.0), min(1.0, abs(value)))


def connected() -> list[Any]:
    """Gamepads that pygame sees."""
    import pygame

    pygame.joystick.init()
    return [pygame.joystick.Joystick(i) for i in range(pygame.joystick.get_count())]
