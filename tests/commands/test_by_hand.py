"""`gato-agent collect --expert human` in a real window: an X server without a screen, and keys from xdotool."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs Xvfb and xdotool"),
]
SECONDS = 120.0  # until a window must show what it should


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An X server of its own, on a display that it chooses."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        monkeypatch.setenv("DISPLAY", f":{number.readline().strip()}")
    for name in ("WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    yield
    server.terminate()
    server.wait()


class Session:
    """A collection in a process of its own, and its window."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "gato_agent", "collect", "--expert", "human", *map(str, arguments)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait(self, title: str) -> str:
        """Wait for a window whose title holds these words, give it the focus, and return its title."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            for window in self.do("search", "--onlyvisible", "--class", ".").split():
                if title in (name := self.do("getwindowname", window)):
                    self.do("windowfocus", window)
                    return name
            time.sleep(0.05)
        raise AssertionError((title, self._process.poll() is not None and self.end()))

    def do(self, *words: str) -> str:
        done = subprocess.run(["xdotool", *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def end(self) -> str:
        out, _ = self._process.communicate(timeout=SECONDS)
        assert self._process.returncode == 0, out
        return out


@pytest.mark.usefixtures("display")
def test_a_person_plays_goes_back_keeps_quits_and_goes_on(tmp_path: Path) -> None:
    options = ("--env", "CartPole-v1", "MountainCar-v0", "--episodes", 1, "--out", tmp_path)
    session = Session(*options)
    session.wait("CartPole-v1: seed 0, step 0, return 0.00")
    for step in range(1, 6):
        session.do("key", "Left")
        session.wait(f"step {step}, ")
    session.do("key", "BackSpace")
    session.wait("step 4, ")
    for step in range(5, 30):
        session.do("key", "Right" if step == 5 else "Left")
        if session.wait(f"step {step}, ").endswith("over"):
            break
    session.do("key", "Return")
    session.wait("MountainCar-v0: seed 0, step 0, return 0.00")
    session.do("keydown", "Right")  # in real time from here on
    session.wait("step 1")
    session.do("keyup", "Right", "key", "Escape")
    assert "1 failure" not in session.end()
    assert verify(tmp_path) == (1, [])
    episode = EpisodeStore(tmp_path / "CartPole-v1").read(0)
    assert episode.actions[""].tolist() == [0, 0, 0, 0, 1, *[0] * (len(episode) - 5)] and episode.terminated

    session = Session(*options)
    session.wait("MountainCar-v0: seed 0, step 0, return 0.00")
    session.do("key", "Escape")
    assert "CartPole-v1: 1 of 1 episodes are already collected" in session.end()
