"""Progress of long jobs off a terminal."""

import io
import re

import pytest

from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.progress import Bar, Bars, clock, progress


def test_lines_of_a_log_have_the_remaining_time_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("gato_agent.envs.io.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("gato_agent.envs.io.progress.PRINT_EVERY", 30.0)
    console = plain_console(file=io.StringIO(), width=200)
    with progress(console, "A", 1000, "steps", done=100, start="A: 900 steps") as update:
        for seconds in range(10, 100, 10):
            now[0] = 100.0 + seconds
            update(100 + seconds, "well")
        update(1000, "done")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == [
        "A: 900 steps", "A: 110 of 1,000 steps, well, 0:14:50 left", "A: 140 of 1,000 steps, well, 0:14:20 left",
        "A: 170 of 1,000 steps, well, 0:13:50 left", "A: 1,000 of 1,000 steps, done",
    ]  # fmt: skip
    assert [clock(seconds) for seconds in (0, 59.9, 3661, 36_000)] == ["0:00:00", "0:00:59", "1:01:01", "10:00:00"]


def test_several_jobs_share_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gato_agent.envs.io.progress.time.monotonic", lambda: now[0])
    console = plain_console(file=io.StringIO(), width=200)
    with Bars(console, [Bar("A", 10, 5), Bar("B", 10)], "episodes") as bars:
        now[0] = 10.0
        bars.update(1, 5, "well")
        bars.update(0, 10, "well")
        bars.update(1, 10, "done")
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "B: 5 of 10 episodes, well, 0:00:20 left", "A: 10 of 10 episodes, well, 0:00:05 left",
        "B: 10 of 10 episodes, done",
    ]  # fmt: skip


def test_a_bar_of_several_goes_when_its_job_is_done() -> None:
    file = io.StringIO()
    console = plain_console(force_terminal=True, file=file, width=200)
    with Bars(console, [Bar("first", 2), Bar("second", 2)], "episodes") as bars:
        bars.update(0, 2, "well")
        bars.update(1, 1, "well")
        bars.describe("5 steps/s")
        file.truncate(0)
    last = file.getvalue()
    assert "second" in last and "all" in last and "3/4" in last and "5 steps/s" in last
    assert "first" not in last


@pytest.mark.parametrize(
    ("width", "shown"), [(80, "Chase-v0: training an expert with PPO"), (60, "Chase-v0"), (30, ""), (24, "")]
)
def test_a_narrow_bar_leaves_out_its_title_before_it_cuts_the_count(width: int, shown: str) -> None:
    console = plain_console(file=io.StringIO(), width=width, force_terminal=True)
    with progress(console, "Chase-v0: training an expert with PPO", 61_440, "steps") as update:
        update(7448, "well")
    line = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", console.file.getvalue()).splitlines()[-1]  # type: ignore[attr-defined]
    assert line.partition("━")[0].rstrip(" ╸") == shown and " 7448/61440 " in line and "…" not in line
