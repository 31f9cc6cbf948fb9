"""The verb `play`: episodes of an agent in a window, in a video, or as numbers."""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.errors import CannotRender, at_least
from gato_agent.envs.files import write_files
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.envs.video import VideoWriter
from gato_agent.evaluation.metrics import FIRST_SEED
from gato_agent.inference.agent import Agent
from gato_agent.inference.decoder import Precision
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.inference.options import resolve_device
from gato_agent.inference.real_time import RealTimeActor

DEFAULT_FPS = 30
MODES = {"human": "human", "video": "rgb_array", "none": None}  # Gymnasium's names
print_line = partial(plain_console(soft_wrap=True).print, highlight=False)


@dataclass(frozen=True)
class PlayConfig:
    """Watch an agent play."""

    env: str
    """Environment id."""
    checkpoint: str | None = None
    """Checkpoint: run folder or .safetensors file; by default the weights shipped with the package."""
    render: Literal["auto", "human", "video", "none"] = "auto"
    """Render mode. human: a window; video: an mp4 file; none: numbers only; auto: human if there is a display, else
    video, and none if the environment cannot be rendered."""
    video: Path | None = None
    """Video file; by default videos/ENV.mp4."""
    episodes: int = 1
    """Episodes to play, at least 1."""
    seed: int = FIRST_SEED
    """Random seed of the first episode; each next one adds 1."""
    n_envs: int = 1
    """Parallel environments, at least 1; the first is shown. Sampled actions depend on their number."""
    hz: float = 0.0
    """Control frequency in Hz, in real time; missed deadlines are counted. 0: as fast as possible."""
    temperature: float | None = None
    """Sampling temperature, at least 0; 0: greedy, the most likely token, for numbers the median. By default the
    checkpoint's for the task, mostly 0."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    precision: Precision = "float32"
    """Precision of the weights: bfloat16, and on a CPU int8, are faster for large models."""
    prompt: Literal["none", "text", "demo"] | None = None
    """Prompt of episodes; by default that of training."""
    demo: Path | None = None
    """Demonstrations: folder of collected episodes, for an agent that was trained with --prompt demo."""
    num_threads: int | None = None
    """CPU threads, at least 1; by default one, or more for large models and many environments."""
    env_kwargs: str = "{}"
    """Environment arguments, as a JSON object."""
    json: Path | None = None
    """JSON file for returns and speed."""


def play(config: PlayConfig) -> dict[str, Any]:
    """Play episodes; returns the content of the `--json` file.

    Raises:
        UsageError: an unknown environment or checkpoint, or one that was not trained on the environment.
        EnvironmentFault: the environment raised, or cannot render; completed episodes are written.
    """
    at_least(1, episodes=config.episodes, n_envs=config.n_envs, num_threads=config.num_threads)
    at_least(0, seed=config.seed, temperature=config.temperature, hz=config.hz)
    env_id = find_spec(config.env).id  # a misspelt id is an error before anything is loaded
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    path = config.video or Path("videos") / f"{quote(env_id, safe='')}.mp4"
    print_line(f"{env_id} with {checkpoint.name} on {device}")
    episodes: list[dict[str, Any]] = []
    with ExitStack() as stack:
        agent, envs, render = _actor_and_envs(config, checkpoint, env_id, device, stack)
        real_time = RealTimeActor(agent, config.hz)
        fps = envs.metadata.get("render_fps") or DEFAULT_FPS
        if render == "video":
            print_line(f"recording {config.episodes} episode(s) to {path}")
        began = time.perf_counter()
        try:
            with VideoWriter(path, fps) if render == "video" else nullcontext() as video:
                for episode in _episodes(real_time, envs, range(config.seed, config.seed + config.episodes), video):
                    episodes.append(episode)
                    print_line("seed {seed}: return {return:.1f} in {length} steps".format(**episode))
        finally:
            result = _summary(env_id, checkpoint.name, device, episodes, time.perf_counter() - began)
            if config.hz:
                result |= {"hz": config.hz, "control_steps": real_time.actions, "missed_deadlines": real_time.missed}
            if path.exists() and render == "video":
                print_line(f"video: {path}")
            if config.json and episodes:
                write_files({config.json: json.dumps(result, indent=2).encode()})
    print_line(f"mean return {result['mean_return']:.1f}, {result['steps_per_second']:.0f} steps/s")
    if config.hz:
        late = f"{real_time.missed} of {real_time.actions} deadlines missed at {config.hz:g} Hz"
        print_line(f"{late}, slowest step {real_time.worst * 1e3:.1f} ms")
    return result


def _actor_and_envs(
    config: PlayConfig, checkpoint: Checkpoint, env_id: str, device: str, stack: ExitStack
) -> tuple[Agent, VectorEnv[Any, Any, Any], str]:
    """Agent, environments and render mode; with auto none, if the environment cannot be rendered."""

    def with_mode(render: str) -> tuple[Agent, VectorEnv[Any, Any, Any], str]:
        agent, envs = stack.enter_context(make_agent_and_envs(
            checkpoint, env_id, min(config.n_envs, config.episodes), env_kwargs=parse_kwargs(config.env_kwargs),
            render_mode=MODES[render], device=device, temperature=config.temperature, seed=config.seed,
            precision=config.precision, prompt=config.prompt, demo=config.demo, num_threads=config.num_threads,
        ))  # fmt: skip
        return agent, envs, render

    try:
        return with_mode(_render_mode(config.render))
    except CannotRender as error:
        if config.render != "auto":
            raise
        print_line(f"played without rendering: {error}")
        return with_mode("none")


def _episodes(
    actor: Actor, envs: VectorEnv[Any, Any, Any], seeds: range, video: VideoWriter | None
) -> Iterator[dict[str, Any]]:
    """Yield seed, return and length of each episode, and record the first environment if there is a video."""
    totals: dict[int, float] = defaultdict(float)
    for step in steps(actor, envs, seeds):
        totals[step.seed] += step.reward
        if video is not None and step.env_index == 0:
            frames = envs.render() or ()
            video.write(np.asarray(frames[0]))
        if step.done:
            yield {"seed": step.seed, "return": totals.pop(step.seed), "length": step.t + 1}


def _summary(env: str, checkpoint: str, device: str, episodes: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Content of the `--json` file."""
    return {
        "env": env,
        "checkpoint": checkpoint,
        "device": device,
        "episodes": episodes,
        "mean_return": float(np.mean([e["return"] for e in episodes])) if episodes else None,
        "steps_per_second": sum(e["length"] for e in episodes) / seconds,
    }


def _render_mode(asked: str) -> str:
    """Render mode for an option: a video in place of a window if there is no display."""
    if asked in ("auto", "human") and not has_display():
        if asked == "human":
            print_line("there is no display for a window here: writing a video")
        return "video"
    return "human" if asked == "auto" else asked


def has_display() -> bool:
    """True if a window can be opened; always on macOS and Windows."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
