"""Short videos of single episodes for a report, of at most 200 kB each."""

import io
import tempfile
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from PIL import Image

from gato_agent.envs.errors import GatoError
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.video import VideoWriter
from gato_agent.evaluation.episode_totals import EpisodeTotals
from gato_agent.evaluation.episode_video import EpisodeCamera
from gato_agent.evaluation.task_score import Outcome
from gato_agent.evaluation.worker import ActorFactory, EvaluationJob, EvaluationSettings, describe
from gato_agent.rollouts.collection import episode_worker as player
from gato_agent.rollouts.collection.episode_worker import BEAT, JOB, NOTHING, SEED, STEP, Failed
from gato_agent.rollouts.storage.writer import Played

LARGEST = 200_000  # bytes of a video
FRAMES = 150  # of a video, about; of longer episodes steps are skipped, because rendering is slow
SHORTEST, LONGEST = 2.0, 10.0  # seconds; other episodes are shown slower or faster
SIDE = 320  # pixels of the longer side
BITS = 140_000  # a second: at most LARGEST in LONGEST seconds, with the decoder's buffer filled once more
SMALL = (
    "-vf", f"scale={SIDE}:{SIDE}:force_original_aspect_ratio=decrease:force_divisible_by=2:flags=area",
    "-preset", "slow", "-crf", "25", "-maxrate", str(BITS), "-bufsize", str(BITS),
)  # fmt: skip


@dataclass(frozen=True)
class VideoJob(EvaluationJob):
    """Episode to be recorded: that of the first seed, with its recorded length in steps."""

    length: int

    @property
    def every(self) -> int:
        """Steps from one frame to the next."""
        return max(1, self.length // FRAMES)

    def where(self, seed: int, step: int) -> str:
        """Progress for an error message: the current step."""
        return f"step {step} of seed {seed}, for its video,"


class VideoRecorder:
    """Worker that records one episode of any of several jobs."""

    def __init__(self, video_jobs: Sequence[VideoJob]) -> None:
        self._video_jobs, self._actors = video_jobs, ActorFactory()

    def play(self, job: int, seeds: Sequence[int], heartbeat: MutableSequence[int]) -> Iterator[player.Result]:
        """Yield the video of a job, or its failure."""
        heartbeat[JOB], heartbeat[SEED], heartbeat[STEP] = job, NOTHING, 0
        video_job = self._video_jobs[job]
        video: EpisodeVideo | None = None
        try:
            with self._actors.make(video_job, 1, "rgb_array") as (actor, envs):
                heartbeat[BEAT] += 1
                heartbeat[SEED] = seeds[0]
                video = _record(video_job, actor, envs, heartbeat)
        except Exception as error:  # noqa: BLE001  # reported with its task; the report is written without the video
            if video is None:  # else the video is complete, and closing the environment failed
                yield Failed(job, seeds[0], describe(video_job.env_id, error))
                return
        finally:
            heartbeat[JOB] = heartbeat[SEED] = NOTHING
        yield Played(job, seeds[0], video.data, video.steps, video.total, video.seconds)


@dataclass(frozen=True)
class EpisodeVideo:
    """Mp4 file, and the steps and return (`total`) of its episode; `seconds` is the video's duration."""

    data: bytes
    steps: int
    total: float
    seconds: float


def _record(
    video_job: VideoJob, actor: Actor, envs: VectorEnv[Any, Any, Any], heartbeat: MutableSequence[int]
) -> EpisodeVideo:
    frames: list[NDArray[np.uint8]] = []
    camera, totals = EpisodeCamera(actor, envs, video_job.env_id), EpisodeTotals(video_job.env_id)
    outcome = Outcome(video_job.settings.seed, 0.0, 0, None)
    for step in steps(camera, envs, [video_job.settings.seed]):
        outcome = totals.add(step)
        if len(frames) < 2 * FRAMES or step.done:
            frames += camera.frames(step, outcome, video_job.every)
        heartbeat[STEP] = outcome.length
        heartbeat[BEAT] += 1
    seconds = min(max(outcome.length / camera.fps, SHORTEST), LONGEST)
    return EpisodeVideo(encode(frames, len(frames) / seconds), outcome.length, outcome.total, seconds)


def encode(frames: Sequence[NDArray[np.uint8]], fps: float) -> bytes:
    """Mp4 file of frames uint8 [height, width, 3], of at most LARGEST bytes; raises GatoError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        with closing(VideoWriter(path, fps, SMALL)) as writer:
            for frame in frames:
                writer.write(frame)
        data = path.read_bytes()
    if len(data) > LARGEST:
        raise GatoError(f"a video of {len(data):,} bytes, more than {LARGEST:,}")
    return data


def poster(video: Path) -> bytes:
    """JPEG of a frame near the end of a video; raises GatoError if it cannot be read."""
    image = io.BytesIO()
    try:
        with closing(imageio_ffmpeg.read_frames(str(video.absolute()), input_params=["-sseof", "-1"])) as frames:
            size = next(frames)["size"]
            Image.frombytes("RGB", size, next(frames)).save(image, "JPEG", quality=85)
    except (OSError, RuntimeError, StopIteration) as error:
        raise GatoError(f"{video} is damaged: delete it, and repeat the command") from error
    return image.getvalue()


def video_jobs(settings: EvaluationSettings, lengths: dict[str, int], env: dict[str, str]) -> list[VideoJob]:
    """Jobs by task and recorded length; `env` has the names of tasks with a module to import."""
    return [VideoJob(env.get(task, task), task, settings, length) for task, length in lengths.items()]
