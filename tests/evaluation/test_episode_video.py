"""Videos begin with the first state, end with the last one held, and say what is played and how it goes."""

from contextlib import closing
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.random_actor import RandomActor
from gato_agent.evaluation import episode_video
from gato_agent.evaluation.episode_totals import EpisodeTotals
from gato_agent.evaluation.episode_video import EpisodeCamera, EpisodeVideos

ENV = "tests.helpers.ticking:Ticking-v0"


def levels(path: Path) -> list[int]:
    """Step of each frame, from the brightness of its last row; the file's rate is checked beside it."""
    with closing(imageio_ffmpeg.read_frames(str(path))) as reader:
        width, height = next(reader)["size"]
        frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    return [round(float(frame[-1].mean()) / 10) for frame in frames]


def played(path: Path, episodes: int, record: int = 0, num_envs: int = 1, **kwargs: Any) -> EpisodeVideos:
    """Videos of episodes of random actions."""
    with closing(make_vector(ENV, num_envs, env_kwargs=kwargs, render_mode="rgb_array")) as envs:
        camera = EpisodeCamera(RandomActor(envs.single_action_space, 0), envs, "Ticking-v0")
        totals = EpisodeTotals("Ticking-v0")
        with EpisodeVideos(path, camera, record) as videos:
            for step in steps(camera, envs, range(episodes)):
                outcome = totals.add(step)
                if step.env_index == 0:
                    videos.add(step, outcome)
    return videos


@pytest.mark.parametrize("num_envs", [1, 2])
def test_every_state_of_an_episode_is_a_frame_and_the_last_is_held(num_envs: int, tmp_path: Path) -> None:
    videos = played(tmp_path / "a.mp4", 2 * num_envs, num_envs=num_envs)
    assert videos.files == [tmp_path / "a.mp4"]
    assert levels(tmp_path / "a.mp4") == 2 * [0, 1, 2, 3, *[4] * 40]


def test_of_a_fast_environment_some_steps_and_the_last_are_frames(tmp_path: Path) -> None:
    played(tmp_path / "a.gif", 1, length=7)  # 40 steps a second, and 20 frames
    assert levels(tmp_path / "a.gif") == [0, 2, 4, 6, *[7] * 20]


def test_episodes_have_a_file_each(tmp_path: Path) -> None:
    videos = played(tmp_path / "v" / "a.mp4", 3, record=2)
    assert videos.files == [tmp_path / "v" / f"a-episode-{number}.mp4" for number in range(2)]
    assert sorted((tmp_path / "v").iterdir()) == videos.files
    assert [levels(path) for path in videos.files] == 2 * [[0, 1, 2, 3, *[4] * 40]]


def test_captions_say_what_is_played_and_how_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str, int]] = []
    monkeypatch.setattr(episode_video, "captioned", lambda frame, *text: said.append(text) or frame)
    played(tmp_path / "a.mp4", 1, length=2)
    assert said == [
        ("Ticking-v0", "return 0.00   step 0", 1), ("Ticking-v0", "return 0.25   step 1", 1),
        ("Ticking-v0", "return 0.50   step 2   success", 1),
    ]  # fmt: skip
    said.clear()
    played(tmp_path / "b.mp4", 1, length=2, mission=True)
    assert {(title, lines) for title, _, lines in said} == {("tick tick ", 2)}


def test_moves_on_a_grid_are_slow_enough_to_follow(tmp_path: Path) -> None:
    played(tmp_path / "b.mp4", 1, mission=True)
    assert levels(tmp_path / "b.mp4") == [0, 1, 2, 3, *[4] * 5]
