"""Interrupt of a long job after its current step, so that it is saved first."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignal:
    """Context in which the first SIGINT is recorded, and the second raises KeyboardInterrupt.

    Attributes:
        received: True after the first SIGINT.

    Args:
        active: False leaves signals as they are; so does a thread other than the main one.
    """

    def __init__(self, *, active: bool = True) -> None:
        self.received = False
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def __enter__(self) -> Self:
        if self._active:
            self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
