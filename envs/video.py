"""Streaming of frames into an mp4 file, which appears only when it is complete."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.envs.files import create, temporary

FINE = ("-crf", "20")


class VideoWriter:
    """H.264 encoder of frames; the file appears under its name when it is closed.

    A `with` block closes it at its end, also when the block raises, so that the frames until then can be watched.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, options: Sequence[str] = FINE) -> None:
        """Begin a video.

        Args:
            path: file; its folder is made if it does not exist.
            fps: frames per second.
            options: of ffmpeg's encoder.
        """
        self.path = Path(path)
        self._options = options
        self._fps = fps
        self._shape: tuple[int, ...] = ()
        self._encoder: subprocess.Popen[bytes] | None = None  # started by the first frame, which tells the size
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe could fill up and stop the encoder

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
        assert self._encoder.stdin is not None
        try:
            self._encoder.stdin.write(_even(frame).data)
        except BrokenPipeError as error:
            raise self._failed() from error

    def close(self) -> Path:
        """Finish the file and return its path; a second call only returns the path.

        Raises:
            GatoError: no frame was written, or the encoder failed. No file is left.
        """
        if self._encoder is None:
            raise GatoError(f"{self.path}: no frame was written, so there is no video")
        if self._encoder.returncode is None:
            self._encoder.communicate()
            if self._encoder.returncode != 0:
                raise self._failed()
            temporary(self.path).replace(self.path)
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None or self._encoder is not None:
            self.close()

    def _start(self, frame: NDArray[np.uint8]) -> subprocess.Popen[bytes]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        create(temporary(self.path)).close()  # the encoder would write through a link
        height, width, _ = _even(frame).shape
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._fps}", "-i", "-"]
        command += ["-vcodec", "libx264", "-pix_fmt", "yuv420p", *self._options]  # every player supports yuv420p
        command += ["-movflags", "+faststart", "-f", "mp4", str(temporary(self.path))]
        # In its own session: Ctrl-C must reach this process alone, which then closes the video.
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._stderr, start_new_session=True
        )

    def _failed(self) -> GatoError:
        assert self._encoder is not None
        self._encoder.communicate()
        temporary(self.path).unlink(missing_ok=True)
        self._stderr.seek(0)
        message = " ".join(self._stderr.read().decode(errors="replace").split())
        return GatoError(f"{self.path}: the video encoder failed: {message or 'it ended early'}")


def _even(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame with even sides, as yuv420p needs them; contiguous."""
    height, width, _ = frame.shape
    return np.ascontiguousarray(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
