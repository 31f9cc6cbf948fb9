"""Short films of single episodes for a report, small enough to be looked at over a slow network."""

import subprocess
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

from gato_agent.envs.errors import GatoError
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.video import VideoWriter
from gato_agent.evaluation.worker import Conditions, Job, Seats, named
from gato_agent.rollouts.collection import episode_worker as player
from gato_agent.rollouts.collection.episode_worker import BEATS, JOB, NOTHING, SEED, STEP, Failed
from gato_agent.rollouts.storage.writer import Played

LARGEST = 200_000  # bytes of a film
FRAMES = 150  # of a film, about; an episode that is longer is shown in leaps, because drawing is slow
SHORTEST, LONGEST = 2.0, 10.0  # seconds; an episode that takes less or more is shown slower or faster
FPS = 30.0  # of an environment that does not say
SIDE = 320  # pixels of the longer side
BITS = 140_000  # a second: at most LARGEST in LONGEST seconds, with the decoder's buffer filled once more
SMALL = (
    "-vf", f"scale={SIDE}:{SIDE}:force_original_aspect_ratio=decrease:force_divisible_by=2:flags=area",
    "-preset", "slow", "-crf", "25", "-maxrate", str(BITS), "-bufsize", str(BITS),
)  # fmt: skip


@dataclass(frozen=True)
class Scene(Job):
    """An episode to be filmed: of the job's first seed; `length` is what it took when it was measured."""

    length: int

    @property
    def every(self) -> int:
        """Steps from one frame to the next."""
        return max(1, self.length // FRAMES)

    def where(self, seed: int, step: int) -> str:
        """How far it was, in a message."""
        return f"step {step} of seed {seed}, for its film,"


class Filmers:
    """Films one episode of any of several tasks."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes, self._seats = scenes, Seats()

    def play(self, job: int, seeds: Sequence[int], pulse: MutableSequence[int]) -> Iterator[player.Result]:
        """Yield the film of a scene, or why there is none."""
        pulse[JOB], pulse[SEED], pulse[STEP] = job, NOTHING, 0
        scene = self._scenes[job]
        film: Film | None = None
        try:
            with self._seats.seat(scene, 1, "rgb_array") as (actor, envs):
                pulse[BEATS] += 1
                pulse[SEED] = seeds[0]
                film = _film(scene, actor, envs, pulse)
        except Exception as error:  # noqa: BLE001  # said with its task; the report does without
            if film is None:  # otherwise only closing the environment failed
                yield Failed(job, seeds[0], named(scene.env_id, error))
                return
        finally:
            pulse[JOB] = pulse[SEED] = NOTHING
        yield Played(job, seeds[0], film.data, film.steps, film.total, film.seconds)


@dataclass(frozen=True)
class Film:
    """An mp4 file's bytes, and the episode that it shows; `seconds` are the film's."""

    data: bytes
    steps: int
    total: float
    seconds: float


def _film(scene: Scene, actor: Actor, envs: VectorEnv[Any, Any, Any], pulse: MutableSequence[int]) -> Film:
    frames: list[NDArray[np.uint8]] = []
    total, taken = 0.0, 0
    for step in steps(actor, envs, [scene.conditions.seed]):
        total, taken = total + step.reward, taken + 1
        if (step.t % scene.every == 0 or step.done) and len(frames) < 2 * FRAMES:
            drawn = envs.render() or ()
            frames.append(np.asarray(drawn[0]))
        pulse[STEP] = taken
        pulse[BEATS] += 1
    seconds = min(max(taken / (envs.metadata.get("render_fps") or FPS), SHORTEST), LONGEST)
    return Film(encode(frames, len(frames) / seconds), taken, total, seconds)


def encode(frames: Sequence[NDArray[np.uint8]], fps: float) -> bytes:
    """An mp4 file of at most LARGEST bytes; raises GatoError where frames do not become one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        with closing(VideoWriter(path, fps, SMALL)) as writer:
            for frame in frames:
                writer.write(frame)
        data = path.read_bytes()
    if len(data) > LARGEST:
        raise GatoError(f"a film of {len(data):,} bytes, more than {LARGEST:,}")
    return data


def poster(film: Path) -> bytes:
    """A JPEG of the middle of a film; raises GatoError if it cannot be read."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-sseof", "-1", "-i", str(film), "-frames:v", "1"]
    done = subprocess.run([*command, "-q:v", "6", "-f", "mjpeg", "-"], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise GatoError(f"{film} is damaged: delete it, and repeat the command")
    return done.stdout


def scenes(conditions: Conditions, lengths: dict[str, int], env: dict[str, str]) -> list[Scene]:
    """A scene of each task; `env` has tasks that the user named with a module."""
    return [Scene(env.get(task, task), task, conditions, length) for task, length in lengths.items()]
