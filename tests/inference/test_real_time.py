"""Actions come at their times, and late ones are counted."""

import time
from typing import Any

import numpy as np
import pytest

from gato_agent.inference import real_time as pace
from gato_agent.inference.real_time import RealTimeActor


class Clock:
    """Stands still but for what is slept and for what an action takes."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


class Slow:
    """Takes the given seconds for its actions, one after the other."""

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.num_envs = clock, iter(seconds), 0

    def reset(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def act(self, observation: Any, start: Any) -> Any:
        self.clock.sleep(next(self.seconds))
        return observation


def times(monkeypatch: pytest.MonkeyPatch, hertz: float, seconds: list[float]) -> tuple[RealTimeActor, list[float]]:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    actor = Slow(clock, seconds)
    paced = RealTimeActor(actor, hertz)
    paced.reset(1)
    assert actor.num_envs == 1
    taken = []
    for value in range(len(seconds)):
        assert paced.act(value, np.zeros(1, np.bool_)) == value
        taken.append(round(clock.now - 100, 6))
    return paced, taken


def test_early_actions_wait_and_late_ones_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    paced, taken = times(monkeypatch, 10, [0.5, 0.01, 0.09, 0.25, 0.02, 0.1])
    assert taken == [0.5, 0.6, 0.7, 0.95, 1.05, 1.15]  # the first waits for nothing; a late one starts a new rhythm
    assert (paced.actions, paced.missed) == (6, 1)
    assert paced.worst == pytest.approx(0.25)


def test_without_a_rate_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    paced, taken = times(monkeypatch, 0, [0.5, 0.01, 0.02])
    assert taken == [0.5, 0.51, 0.53]
    assert paced.missed == 0


def test_it_keeps_real_time() -> None:
    clock = Clock()
    paced = RealTimeActor(Slow(clock, [0.0] * 6), 100)
    began = time.perf_counter()
    for _ in range(6):
        paced.act(None, np.zeros(1, np.bool_))
    assert time.perf_counter() - began >= 0.05
