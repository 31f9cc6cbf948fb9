"""Videos contain every frame in its colours, and a file is whole or does not exist."""

from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.make import make
from gato_agent.envs.video import VideoWriter, stride

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200)]


def plain(colour: tuple[int, int, int], height: int = 64, width: int = 96) -> Any:
    return np.full((height, width, 3), colour, np.uint8)


def decoded(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Metadata and frames [height, width, 3]."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_frames_come_back_in_number_order_and_colour(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "colours.mp4"
    with VideoWriter(path, fps=5) as video:
        for colour in COLOURS * 3:
            video.write(plain(colour))
    meta, frames = decoded(path)
    assert (meta["fps"], meta["codec"], meta["size"], len(frames)) == (5.0, "h264", (96, 64), 18)
    for frame, colour in zip(frames, COLOURS * 3, strict=True):
        np.testing.assert_allclose(frame.mean((0, 1)), colour, atol=4)
    assert [file.name for file in path.parent.iterdir()] == ["colours.mp4"]


@pytest.mark.parametrize(("height", "width"), [(33, 47), (1, 1), (64, 33), (210, 160)])
def test_odd_sides_are_made_even_and_nothing_is_scaled(height: int, width: int, tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "odd.mp4", fps=30)
    writer.write(plain((200, 200, 200), height, width))
    _, [frame] = decoded(writer.close())
    assert frame.shape == (height + height % 2, width + width % 2, 3)
    np.testing.assert_allclose(frame[:height, :width], 200, atol=8)


def test_frames_need_not_be_contiguous(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "flipped.mp4", fps=30) as video:
        left_red = np.concatenate([plain(COLOURS[0]), plain(COLOURS[2])], axis=1)
        video.write(left_red[:, ::-1])
    _, [frame] = decoded(tmp_path / "flipped.mp4")
    assert frame[32, 10].argmax() == 2
    assert frame[32, -10].argmax() == 0


def test_it_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"the one before")
    video = VideoWriter(path, fps=30)
    video.write(plain(COLOURS[0]))
    assert path.read_bytes() == b"the one before"
    assert video.close() == path
    assert video.close() == path
    assert len(decoded(path)[1]) == 1


def test_another_frame_size_is_refused_and_the_video_until_then_kept(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 30) as video:
        video.write(plain(COLOURS[0]))
        with pytest.raises(GatoError, match=r"video\.mp4: the frame size changed from 96x64 to 96x32; "):
            video.write(plain(COLOURS[0], height=32))
    assert len(decoded(path)[1]) == 1


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (None, "NoneType"),
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
    ],
)
def test_what_is_no_frame_is_refused(frame: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(GatoError, match=rf"must be uint8 \[height, width, 3\], not {what}"):
        VideoWriter(tmp_path / "video.mp4", fps=30).write(frame)


def test_no_frames_no_video(tmp_path: Path) -> None:
    with pytest.raises(GatoError, match="no frame was written"):
        VideoWriter(tmp_path / "video.mp4", fps=30).close()
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "video.mp4", fps=30):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side", [2, 512])  # a pipe holds the first, and not the second
def test_an_encoder_that_fails_is_heard_and_leaves_nothing(side: int, tmp_path: Path, capfd: Any) -> None:
    def record() -> None:
        with VideoWriter(tmp_path / "video.mp4", fps=-1) as video:
            video.write(plain(COLOURS[0], side, side))

    with pytest.raises(GatoError, match=r"video\.mp4: the video encoder failed; its messages are above"):
        record()
    assert "framerate" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_gif_has_every_frame_in_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "colours.gif"
    with VideoWriter(path, fps=10) as video:
        for colour in COLOURS * 2:
            video.write(plain(colour))
    with Image.open(path) as image:
        assert (image.format, image.size, image.n_frames) == ("GIF", (96, 64), 12)  # type: ignore[attr-defined]
        for number, colour in enumerate(COLOURS * 2):
            image.seek(number)
            assert image.info["duration"] == 100
            np.testing.assert_allclose(np.asarray(image.convert("RGB")).mean((0, 1)), colour, atol=4)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.avi: a video is an \.mp4 or a \.gif file"):
        VideoWriter(tmp_path / "a.avi", 30)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, GatoError])
def test_an_interrupted_video_replaces_no_complete_one(suffix: str, error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / f"video.{suffix}"
    path.write_bytes(b"a complete one")

    def record() -> None:
        with VideoWriter(path, 30) as video:
            for colour in COLOURS:
                video.write(plain(colour))
            raise error

    with pytest.raises(error):
        record()
    assert path.read_bytes() == b"a complete one"
    assert len(decoded(tmp_path / f"video-partial.{suffix}")[1]) == len(COLOURS)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "fps", "every"),
    [("a.mp4", 4, 1), ("a.mp4", 50, 1), ("a.mp4", 51, 2), ("a.MP4", 125, 3), ("a.gif", 25, 1), ("a.gif", 50, 2)],
)
def test_a_video_has_not_too_many_frames_a_second(name: str, fps: float, every: int) -> None:
    assert stride(Path(name), fps) == every


def test_a_video_of_an_environment_is_written(tmp_path: Path) -> None:
    env = make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    with VideoWriter(tmp_path / "pole.mp4", fps=env.metadata["render_fps"]) as video:
        for _ in range(5):
            env.step(1)
            video.write(env.render())  # type: ignore[arg-type]
    meta, frames = decoded(tmp_path / "pole.mp4")
    assert (meta["fps"], meta["size"], len(frames)) == (50.0, (600, 400), 5)


@pytest.mark.parametrize(
    "name", ["run:1.mp4", "http:x.gif", "-y.mp4", "%03d.mp4", "a b'\".mp4", "x\ny.gif", "é[*].mp4"]
)
def test_a_relative_name_is_that_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(name, 10) as video:
        for colour in COLOURS:
            video.write(plain(colour))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(decoded(tmp_path / name)[1]) == len(COLOURS)
