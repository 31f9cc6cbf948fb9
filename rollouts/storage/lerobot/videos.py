"""Videos of a camera: MP4 files, in which the episodes follow one another at a constant frame rate."""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.storage.imported import ADVICE
from gato_agent.rollouts.storage.lerobot.features import Feature

# MP4 alone: other formats, such as playlists, name files and addresses that ffmpeg would open.
ONLY_MP4 = ["-protocol_whitelist", "file", "-f", "mov"]
CODEC, PIXELS, ODD_PIXELS = "libx264", "yuv420p", "yuv444p"  # the last where a side is odd
QUALITY = ["-crf", "23", "-g", "2", "-bf", "0", "-threads", "1"]  # a key frame every two, as LeRobot's
SAME_BYTES = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"]
FILE_BYTES = 2**32  # of raw frames in a file, after which the next episode begins another


class FrameReader:
    """Reader of a camera's frames; ascending positions in one file are decoded once."""

    def __init__(self, feature: Feature, fps: float) -> None:
        self._feature, self._fps = feature, fps
        self._path: Path | None = None
        self._next = 0
        self._frames: Generator[Any, Any, None] | None = None

    def read(self, path: Path, start: int, count: int) -> NDArray[np.uint8]:
        """Frames `start` to `start + count` of a file, uint8 [count, height, width, 3].

        Raises:
            GatoError: no MP4, frames of another size, or too few of them.
        """
        if self._path != path or start < self._next or self._frames is None:
            self.close()
            self._frames, self._path, self._next = self._open(path), path, 0
        height, width, _ = self._feature.shape
        images = []
        for position in range(self._next, start + count):
            data = next(self._frames, None)
            if data is None:
                raise GatoError(f"{path} has {position:,} frames, and not those to {start + count:,}: {ADVICE}")
            if position >= start:
                images.append(np.frombuffer(data, np.uint8).reshape(height, width, 3))
        self._next = start + count
        return np.stack(images)

    def _open(self, path: Path) -> Generator[Any, Any, None]:
        frames: Generator[Any, Any, None] = imageio_ffmpeg.read_frames(
            str(path.absolute()), input_params=ONLY_MP4, output_params=["-vf", f"fps={self._fps}:start_time=0"]
        )
        height, width, _ = self._feature.shape
        try:
            size = tuple(next(frames)["size"])
        except (OSError, StopIteration, RuntimeError) as error:
            raise GatoError(f"{path} cannot be decoded as MP4: {ADVICE}") from error
        if size != (width, height):
            frames.close()
            raise GatoError(f"{path} has frames of {size[0]} x {size[1]} instead of {width} x {height}: {ADVICE}")
        return frames

    def close(self) -> None:
        """Close the file."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None


@contextmanager
def frame_writer(path: Path, feature: Feature, fps: int) -> Iterator[Generator[Any, Any, None]]:
    """Encoder of a new MP4 file, to which frames are sent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = feature.shape
    encoder: Generator[Any, Any, None] = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, quality=None, macro_block_size=1, codec=CODEC,
        pix_fmt_out=pixels_of(feature), ffmpeg_log_level="error", output_params=[*QUALITY, *SAME_BYTES],
    )  # fmt: skip
    encoder.send(None)
    with closing(encoder):
        yield encoder


def pixels_of(feature: Feature) -> str:
    """Pixel format of a feature's videos."""
    return ODD_PIXELS if feature.shape[0] % 2 or feature.shape[1] % 2 else PIXELS


def video_info(feature: Feature, fps: int) -> dict[str, Any]:
    """Entry `info` of a video feature in meta/info.json."""
    height, width, channels = feature.shape
    return {
        "video.height": height, "video.width": width, "video.channels": channels, "video.codec": "h264",
        "video.pix_fmt": pixels_of(feature), "video.is_depth_map": False, "video.fps": fps, "has_audio": False,
    }  # fmt: skip
