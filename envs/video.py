"""Streaming of frames into an mp4 or GIF file, which appears only when it is complete."""

import math
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import create, temporary

FINE = ("-crf", "20")
MP4 = ("-movflags", "+faststart", "-f", "mp4")
# A palette for each frame: one for all frames would keep all of them in memory. Frames are whole, because ffmpeg's
# transparent pixels take the palette of the frame before.
PALETTES = "split[a][b];[a]palettegen=stats_mode=single:reserve_transparent=0[p];[b][p]paletteuse=new=1"
GIF = ("-filter_complex", PALETTES, "-gifflags", "-transdiff-offsetting", "-f", "gif")
FASTEST = {".mp4": 50.0, ".gif": 25.0}  # frames a second; those of a GIF are large
ROUNDING = 0.02  # seconds by which ffmpeg's durations may be short


class VideoWriter:
    """Encoder of frames, H.264 or GIF by the file's suffix; the file appears under its name when it is closed.

    A `with` block closes it at its end. If the block raises, the frames until then are in a file of another name, that
    of `partial`, so that an earlier video under the name itself is kept.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, options: Sequence[str] = FINE) -> None:
        """Begin a video.

        Args:
            path: file, .mp4 or .gif; its folder is made if it does not exist.
            fps: frames per second.
            options: of ffmpeg's H.264 encoder.

        Raises:
            UsageError: another suffix.
        """
        self.path = Path(path)
        stride(self.path, fps)
        self._gif = self.path.suffix.lower() == ".gif"
        self._options = options
        self._fps = fps
        self._shape: tuple[int, ...] = ()
        self._written = 0
        self._encoder: Generator[Any, Any, None] | None = None  # started by the first frame, which tells the size

    @property
    def partial(self) -> Path:
        """Name of an interrupted video, beside that of a complete one."""
        return self.path.with_stem(f"{self.path.stem}-partial")

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame, uint8 [height, width, 3]; an odd side is padded by repeating its last row or column.

        Raises:
            GatoError: the array has another dtype or shape, the size changed, or the encoder failed.
        """
        if getattr(frame, "dtype", None) != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            what = f"{frame.dtype} {list(frame.shape)}" if hasattr(frame, "dtype") else type(frame).__name__
            raise GatoError(f"{self.path}: a video frame must be uint8 [height, width, 3], not {what}")
        if self._encoder is None:
            self._encoder, self._shape = self._start(frame), frame.shape
        if frame.shape != self._shape:
            sizes = " to ".join(f"{width}x{height}" for height, width, _ in (self._shape, frame.shape))
            raise GatoError(f"{self.path}: the frame size changed from {sizes}; write one video per size")
        try:
            self._encoder.send(_even(frame).data)
            self._written += 1
        except OSError as error:
            raise self._failed() from error

    def close(self) -> Path:
        """Finish the file and return its path; a second call only returns the path.

        Raises:
            GatoError: no frame was written, or the encoder failed. No file is left.
        """
        return self._finish(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.interrupt()

    def interrupt(self) -> Path | None:
        """Finish the file under its name as an incomplete video, and return that; None without a frame."""
        return self._finish(self.partial) if self._written else None

    def _start(self, frame: NDArray[np.uint8]) -> Generator[Any, Any, None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        create(temporary(self.path)).close()  # the encoder would write through a link
        height, width, _ = _even(frame).shape
        encoder: Generator[Any, Any, None] = imageio_ffmpeg.write_frames(
            _named(temporary(self.path)), (width, height), fps=self._fps, quality=None, macro_block_size=1,
            codec="gif" if self._gif else "libx264", pix_fmt_out="pal8" if self._gif else "yuv420p",
            ffmpeg_log_level="error", output_params=[*(GIF if self._gif else (*self._options, *MP4))],
        )  # fmt: skip
        encoder.send(None)
        return encoder

    def _finish(self, path: Path) -> Path:
        if self._encoder is None:
            raise GatoError(f"{self.path}: no frame was written, so there is no video")
        if temporary(self.path).exists():  # else it is finished
            self._encoder.close()
            if self._seconds() < (self._written - 1) / self._fps - ROUNDING:
                raise self._failed()
            temporary(self.path).replace(path)
        return path

    def _seconds(self) -> float:
        """Duration of the written file; below 0 if ffmpeg cannot read it."""
        frames = imageio_ffmpeg.read_frames(_named(temporary(self.path)))
        try:
            return float(next(frames)["duration"])
        except (OSError, StopIteration, RuntimeError):
            return -1.0
        finally:
            frames.close()

    def _failed(self) -> GatoError:
        temporary(self.path).unlink(missing_ok=True)
        self._encoder, self._written = None, 0
        return GatoError(f"{self.path}: the video encoder failed; its messages are above this line")


def _named(path: Path) -> str:
    """Name of a file for ffmpeg, which takes a relative name with a colon for a protocol."""
    return str(path.absolute())


def stride(path: Path, fps: float) -> int:
    """Steps of an environment from one frame of its video to the next, so that the file has not too many a second.

    Raises:
        UsageError: no file of a video, by its suffix.
    """
    fastest = FASTEST.get(path.suffix.lower())
    if fastest is None:
        raise UsageError(f"{path}: a video is an .mp4 or a .gif file")
    return max(1, math.ceil(fps / fastest))


def _even(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame with even sides, as yuv420p needs them; contiguous."""
    height, width, _ = frame.shape
    return np.ascontiguousarray(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
