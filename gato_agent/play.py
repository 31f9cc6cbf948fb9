"""Watch an agent: in a window, in a video, or as numbers."""

import json
import os
import sys
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import torch
from rich.console import Console

from gato_agent.agent import Agent, find_task, resolve_device
from gato_agent.checkpoint import Checkpoint
from gato_agent.envs.errors import UsageError
from gato_agent.envs.files import write_files
from gato_agent.envs.loop import steps
from gato_agent.envs.make import find_spec, make_vector, parse_kwargs
from gato_agent.envs.video import VideoWriter
from gato_agent.evaluate import FIRST_SEED

DEFAULT_FPS = 30


@dataclass(frozen=True)
class PlayConfig:
    """Let an agent play, and watch it."""

    env: str
    """Environment id."""
    checkpoint: str | None = None
    """Run folder or .safetensors file; by default the weights shipped with the package."""
    render: Literal["auto", "human", "video", "none"] = "auto"
    """human opens a window, video writes a file; auto takes the window where there is a display."""
    video: Path | None = None
    """Where to write the video; by default videos/ENV.mp4."""
    episodes: int = 1
    """Episodes to play."""
    seed: int = FIRST_SEED
    """Seed of the first episode; the others follow."""
    temperature: float = 0.0
    """0 for the likeliest action, otherwise sampled."""
    device: str = "auto"
    """auto, cpu or cuda."""
    num_threads: int | None = None
    """CPU threads."""
    env_kwargs: str = "{}"
    """JSON object of arguments for the environment."""
    json: Path | None = None
    """Write returns and speed to this file too."""


def play(config: PlayConfig) -> dict[str, Any]:
    """Play episodes one after the other; returns what `--json` writes.

    Raises:
        UsageError: unknown environment or checkpoint, or one that does not know the environment.
        EnvironmentFault: the environment raised, or cannot render.
    """
    if config.episodes < 1:
        raise UsageError(f"--episodes {config.episodes}: at least one is needed")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    find_spec(config.env)  # a misspelt id is said before anything is loaded
    console, device = Console(), resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    console.print(f"{config.env} with {checkpoint.name} on {device}", highlight=False)
    render = config.render if config.render != "auto" else ("human" if has_display() else "video")
    mode = {"human": "human", "video": "rgb_array", "none": None}[render]
    trained = checkpoint.tasks.get(config.env)
    kwargs = parse_kwargs(config.env_kwargs) or (trained.env_kwargs if trained else {})
    with closing(make_vector(config.env, 1, env_kwargs=kwargs, render_mode=mode)) as envs:
        agent = Agent(
            checkpoint, find_task(checkpoint, envs), device=device, temperature=config.temperature, seed=config.seed
        )
        path = config.video or Path("videos") / f"{quote(config.env, safe='')}.mp4"
        fps = envs.metadata.get("render_fps") or DEFAULT_FPS
        episodes, total, count = [], 0.0, 0
        began = time.perf_counter()
        with VideoWriter(path, fps) if render == "video" else nullcontext() as video:
            for step in steps(agent, envs, range(config.seed, config.seed + config.episodes)):
                total, count = total + step.reward, count + 1
                if video is not None:
                    video.write(np.asarray(envs.render()[0]))
                if step.done:
                    episodes.append({"seed": step.seed, "return": total, "length": step.t + 1})
                    console.print(f"seed {step.seed}: return {total:.1f} in {step.t + 1} steps", highlight=False)
                    total = 0.0
        seconds = time.perf_counter() - began
    if render == "video":
        console.print(f"video: {path}", highlight=False)
    result = {
        "env": config.env,
        "checkpoint": checkpoint.name,
        "device": device,
        "episodes": episodes,
        "mean_return": float(np.mean([e["return"] for e in episodes])),
        "steps_per_second": count / seconds,
    }
    console.print(f"mean return {result['mean_return']:.1f}, {count / seconds:.0f} steps/s", highlight=False)
    if config.json:
        write_files({config.json: json.dumps(result, indent=2).encode()})
    return result


def has_display() -> bool:
    """Whether a window can be opened: always assumed on macOS and Windows."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
