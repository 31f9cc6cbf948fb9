"""Picture of the README: several tasks side by side, played by one set of weights, as a GIF.

python scripts/hero.py docs/agent.gif
"""

import io
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.cli import guard
from gato_agent.envs.files import write_files
from gato_agent.envs.loop import steps
from gato_agent.evaluation.episode_totals import EpisodeTotals
from gato_agent.evaluation.episode_video import EpisodeCamera
from gato_agent.evaluation.metrics import FIRST_SEED
from gato_agent.inference.make_agent import make_agent_and_envs

COLOURS = 256  # of the palette that all frames share
PAPER = (24, 24, 28)


@dataclass(frozen=True)
class Config:
    """Record tasks side by side."""

    out: tyro.conf.Positional[Path]
    """GIF file."""
    env: tuple[str, ...] = ("LunarLander-v3", "Ant-v5", "Meta-World/pick-place-v3", "BabyAI-GoToLocal-v0")
    """Environment ids, from left to right."""
    seed: int = FIRST_SEED
    """Random seed of the first episode of each task; others follow until the time is over."""
    seconds: float = 10.0
    """Duration."""
    fps: int = 8
    """Frames a second."""
    width: int = 250
    """Width of a panel in pixels."""


def panel(checkpoint: Checkpoint, env_id: str, config: Config) -> Generator[Image.Image, None, None]:
    """Frames of a task at the picture's rate, one episode after the other."""
    with make_agent_and_envs(checkpoint, env_id, 1, render_mode="rgb_array", device="cpu") as (agent, envs):
        camera, totals = EpisodeCamera(agent, envs, env_id), EpisodeTotals(env_id)
        every, repeat = max(1, round(camera.fps / config.fps)), max(1, round(config.fps / camera.fps))
        for step in steps(camera, envs, iter(range(config.seed, config.seed + 1000))):
            for frame in camera.frames(step, totals.add(step), every):
                image = Image.fromarray(frame)
                small = image.resize(
                    (config.width, round(image.height * config.width / image.width)), Image.Resampling.LANCZOS
                )
                yield from [small] * (repeat if not step.done else max(repeat, config.fps))


def side_by_side(images: tuple[Image.Image, ...]) -> Image.Image:
    """One picture of several, aligned at the top, where their names are."""
    whole = Image.new("RGB", (sum(each.width for each in images), max(each.height for each in images)), PAPER)
    for number, each in enumerate(images):
        whole.paste(each, (sum(other.width for other in images[:number]), 0))
    return whole


def record(config: Config) -> int:
    """Play the tasks and write the picture; returns the exit code."""
    checkpoint, count = Checkpoint.load(None, "cpu"), round(config.seconds * config.fps)
    panels = []
    for env_id in config.env:
        with closing(panel(checkpoint, env_id, config)) as frames:
            panels.append([next(frames) for _ in range(count)])
    whole = [side_by_side(images) for images in zip(*panels, strict=True)]
    palette = side_by_side(tuple(whole[:: max(1, count // 8)])).quantize(COLOURS, kmeans=1)
    images = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in whole]
    write_files({config.out: encoded(images, 1000 // config.fps)})
    return 0


def encoded(images: list[Image.Image], duration: int) -> bytes:
    """GIF of images that share a palette, of a duration in milliseconds each, shown again and again."""
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False)
    return file.getvalue()


if __name__ == "__main__":
    guard(lambda: record(tyro.cli(Config)), "hero.py")
