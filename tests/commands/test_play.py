"""The verb `play`: experts, videos by episode, GIFs, JSON on standard output, and interrupts."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import imageio_ffmpeg
import pytest
from PIL import Image

from gato_agent.cli import main
from gato_agent.commands.play import PlayConfig, play
from gato_agent.envs.errors import UsageError
from tests.helpers.interrupts import To, interrupted

TICKING = "tests.helpers.ticking:Ticking-v0"


def said(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Standard output and error of a command that works."""
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line))
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    return out, err


def test_an_expert_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(f"play --env {TICKING} --expert random --episodes 2 --video {tmp_path / 'a.gif'}", capsys)
    assert out.startswith("Ticking-v0 with the expert random\n")
    assert "return 1.00 in 4 steps, success" in out and "next:" not in out
    with Image.open(tmp_path / "a.gif") as image:
        assert image.format == "GIF"


def test_an_expert_plays_as_in_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--env CartPole-v1 --expert random --episodes 3 --seed 7 --json -"
    played, _ = said(f"play {line} --render none", capsys)
    evaluated, messages = said(f"evaluate {line} --workers 0", capsys)
    returns = [each["return"] for each in json.loads(played)["episodes"]]
    assert len(set(returns)) > 1
    assert json.loads(evaluated)["tasks"][0]["returns"] == returns
    assert "CartPole-v1: mean" in messages


@pytest.mark.parametrize(
    "line",
    [f"play --env {TICKING} --expert random --render none", "info tasks --suite classic",
     "bench step --size nano --task 2/1 --no-compare --context 32 --repeats 2 --device cpu"],
)  # fmt: skip
def test_json_alone_is_on_standard_output(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, messages = said(f"{line} --json -", capsys)
    assert json.loads(out) and messages.strip()


def test_the_agent_records_an_episode_in_each_file(tmp_path: Path) -> None:
    config = PlayConfig("CartPole-v1", record=2, video=tmp_path / "pole.mp4", env_kwargs='{"max_episode_steps": 10}')
    result = play(config)
    assert [each["length"] for each in result["episodes"]] == [10, 10]
    assert result["success"] is None and result["expert"] is None
    for number in range(2):
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / f"pole-episode-{number}.mp4"))
        assert frames == 10 + 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": 3, "episodes": 2}, "--record 3: there are 2 --episodes"),
        ({"record": 1, "render": "none"}, "--render none writes no video"),
        ({"video": Path("a.mp4"), "render": "human"}, "--render human writes no video"),
        ({"video": Path("a.avi")}, r"a\.avi: a video is an \.mp4 or a \.gif"),
        ({"record": 2, "n_envs": 2}, "leave --n-envs out"),
        ({"expert": "random", "checkpoint": "shipped"}, "--checkpoint and --expert both play"),
        ({"expert": "train"}, "name the zip that it made"),
        ({"expert_wrappers": "{}"}, "belong to an --expert"),
        ({"episodes": 0}, "--episodes 0: at least 1"),
        ({"temperature": -1.0}, "--temperature -1.0: use 0 for greedy actions"),
    ],
)
def test_options_that_exclude_each_other_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        play(PlayConfig("CartPole-v1", **options))


@pytest.mark.parametrize("to", get_args(To))
def test_an_interrupt_keeps_a_complete_video_and_completed_episodes(to: To, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"a complete one")
    line = f"play --env {TICKING} --expert random --video v.mp4 --json p.json --episodes 100000"
    out, _ = interrupted(line, "seed 1000001", to, tmp_path)
    assert (tmp_path / "v.mp4").read_bytes() == b"a complete one"
    assert "video: v-partial.mp4" in out
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "v-partial.mp4"))
    episodes = json.loads((tmp_path / "p.json").read_text())["episodes"]
    assert len(episodes) >= 2
    assert frames >= len(episodes) * 44
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "v-partial.mp4", "v.mp4"]


def test_play_imports_no_package_that_it_does_not_need() -> None:
    heavy = {"jinja2", "matplotlib", "pandas", "sb3_contrib", "scipy", "stable_baselines3"}
    probe = f"import sys, gato_agent.commands.play; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
