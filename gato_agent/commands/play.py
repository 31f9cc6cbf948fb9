"""Watch an agent: in a window, in a video, or as numbers."""

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
say = partial(plain_console(soft_wrap=True).print, highlight=False)


@dataclass(frozen=True)
class PlayConfig:
    """Let an agent play, and watch it."""

    env: str
    """Environment id."""
    checkpoint: str | None = None
    """Run folder or .safetensors file; by default the weights shipped with the package."""
    render: Literal["auto", "human", "video", "none"] = "auto"
    """human opens a window, video writes a file; auto takes the window where there is a display, and none where the
    environment cannot be drawn."""
    video: Path | None = None
    """Where to write the video; by default videos/ENV.mp4."""
    episodes: int = 1
    """Episodes to play."""
    seed: int = FIRST_SEED
    """Seed of the first episode; the others follow."""
    n_envs: int = 1
    """Environments that are played at once; the first one is shown. Sampled actions depend on it."""
    hz: float = 0.0
    """Control steps a second, in real time; late ones are counted. 0 for as fast as can be."""
    temperature: float | None = None
    """0 for the likeliest action, of numbers the median; otherwise sampled. By default what the checkpoint has for
    the task: 0, unless something else was measured to be better."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Precision = "float32"
    """Of the weights: bfloat16, and on a CPU int8, are faster for large models."""
    prompt: Literal["none", "text", "demo"] | None = None
    """What episodes begin with: none, or by default what the agent was trained with."""
    demo: Path | None = None
    """Folder of collected episodes, one of which is shown to an agent that was trained with --prompt demo."""
    num_threads: int | None = None
    """CPU threads."""
    env_kwargs: str = "{}"
    """JSON object of arguments for the environment."""
    json: Path | None = None
    """Write returns and speed to this file too."""


def play(config: PlayConfig) -> dict[str, Any]:
    """Play episodes, one after the other in each environment; returns what `--json` writes.

    Raises:
        UsageError: unknown environment or checkpoint, or one that does not know the environment.
        EnvironmentFault: the environment raised, or cannot render; what was played before is written.
    """
    at_least(1, episodes=config.episodes, n_envs=config.n_envs, num_threads=config.num_threads)
    at_least(0, seed=config.seed, temperature=config.temperature, hz=config.hz)
    env_id = find_spec(config.env).id  # a misspelt id is said before anything is loaded
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    checkpoint = Checkpoint.load(config.checkpoint, device)
    path = config.video or Path("videos") / f"{quote(env_id, safe='')}.mp4"
    say(f"{env_id} with {checkpoint.name} on {device}")
    episodes: list[dict[str, Any]] = []
    with ExitStack() as stack:
        agent, envs, render = _actor_and_envs(config, checkpoint, env_id, device, stack)
        paced = RealTimeActor(agent, config.hz)
        fps = envs.metadata.get("render_fps") or DEFAULT_FPS
        began = time.perf_counter()
        try:
            with VideoWriter(path, fps) if render == "video" else nullcontext() as video:
                for episode in _episodes(paced, envs, range(config.seed, config.seed + config.episodes), video):
                    episodes.append(episode)
                    say("seed {seed}: return {return:.1f} in {length} steps".format(**episode))
        finally:
            result = _result(env_id, checkpoint.name, device, episodes, time.perf_counter() - began)
            if config.hz:
                result |= {"hz": config.hz, "control_steps": paced.actions, "missed_deadlines": paced.missed}
            if path.exists() and render == "video":
                say(f"video: {path}")
            if config.json and episodes:
                write_files({config.json: json.dumps(result, indent=2).encode()})
    say(f"mean return {result['mean_return']:.1f}, {result['steps_per_second']:.0f} steps/s")
    if config.hz:
        late = f"{paced.missed} of {paced.actions} deadlines missed at {config.hz:g} Hz"
        say(f"{late}, slowest step {paced.worst * 1e3:.1f} ms")
    return result


def _actor_and_envs(
    config: PlayConfig, checkpoint: Checkpoint, env_id: str, device: str, stack: ExitStack
) -> tuple[Agent, VectorEnv[Any, Any, Any], str]:
    """The agent, its environments and how they are shown; with auto not at all, where they cannot be."""

    def with_mode(render: str) -> tuple[Agent, VectorEnv[Any, Any, Any], str]:
        agent, envs = stack.enter_context(make_agent_and_envs(
            checkpoint, env_id, min(config.n_envs, config.episodes), env_kwargs=parse_kwargs(config.env_kwargs),
            render_mode=MODES[render], device=device, temperature=config.temperature, seed=config.seed,
            precision=config.precision, prompt=config.prompt, demo=config.demo,
        ))  # fmt: skip
        return agent, envs, render

    try:
        return with_mode(_render(config.render))
    except CannotRender as error:
        if config.render != "auto":
            raise
        say(f"played without pictures: {error}")
        return with_mode("none")


def _episodes(
    actor: Actor, envs: VectorEnv[Any, Any, Any], seeds: range, video: VideoWriter | None
) -> Iterator[dict[str, Any]]:
    """Play and video, yielding each episode's seed, return and length; what is recorded is the first environment."""
    totals: dict[int, float] = defaultdict(float)
    for step in steps(actor, envs, seeds):
        totals[step.seed] += step.reward
        if video is not None and step.env_index == 0:
            frames = envs.render() or ()
            video.write(np.asarray(frames[0]))
        if step.done:
            yield {"seed": step.seed, "return": totals.pop(step.seed), "length": step.t + 1}


def _result(env: str, checkpoint: str, device: str, episodes: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What `--json` writes."""
    return {
        "env": env,
        "checkpoint": checkpoint,
        "device": device,
        "episodes": episodes,
        "mean_return": float(np.mean([e["return"] for e in episodes])) if episodes else None,
        "steps_per_second": sum(e["length"] for e in episodes) / seconds,
    }


def _render(asked: str) -> str:
    """How to show the game: a window needs a display, and without one a video is as good."""
    if asked in ("auto", "human") and not has_display():
        if asked == "human":
            say("there is no display for a window here: writing a video")
        return "video"
    return "human" if asked == "auto" else asked


def has_display() -> bool:
    """Whether a window can be opened: always assumed on macOS and Windows."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
