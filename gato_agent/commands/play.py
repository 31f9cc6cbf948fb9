"""The verb `play`: episodes of an agent or an expert in a window, in a video, or as numbers."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.errors import CannotRender, UsageError, at_least
from gato_agent.envs.io.console import plural, print_line
from gato_agent.envs.io.json_output import write_json
from gato_agent.envs.io.stop_signal import StopSignal
from gato_agent.envs.loop import Actor, Step, steps
from gato_agent.envs.make import WITHOUT, find_spec, has_display, parse_kwargs
from gato_agent.envs.video import stride
from gato_agent.evaluation.episode_totals import EpisodeTotals
from gato_agent.evaluation.episode_video import FPS, EpisodeCamera, EpisodeVideos
from gato_agent.evaluation.metrics import FIRST_SEED, decimals
from gato_agent.evaluation.option_groups import ActorOptions, DecodingArguments
from gato_agent.evaluation.task_score import Outcome
from gato_agent.evaluation.worker import EvaluationJob, EvaluationSettings, expert_and_envs
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.inference.options import resolve_device
from gato_agent.inference.real_time import RealTimeActor
from gato_agent.rollouts.experts.expert import Expert
from gato_agent.rollouts.experts.sb3.obs_wrappers import parse_wrappers

MODES = {"human": "human", "video": "rgb_array", "none": None}  # Gymnasium's names

ActorAndEnvs = tuple[Actor, VectorEnv[Any, Any, Any]]


@dataclass(frozen=True)
class PlayOptions:
    """Episodes to play."""

    env: str
    """Environment id."""
    episodes: int | None = None
    """Episodes to play, at least 1; by default 1, or those of --record."""
    seed: int = FIRST_SEED
    """Random seed of the first episode; each next one adds 1."""
    n_envs: int = 1
    """Parallel environments, at least 1; the first is shown, and an expert plays one. Sampled actions depend on their
    number."""
    hz: float = 0.0
    """Control frequency in Hz, in real time; missed deadlines are counted. 0: as fast as possible."""
    env_kwargs: str = "{}"
    """Environment arguments, as a JSON object."""


@dataclass(frozen=True)
class OutputOptions:
    """Window, video and numbers."""

    render: Literal["auto", "human", "video", "none"] = "auto"
    """Render mode. human: a window; video: a file; none: numbers only; auto: human if there is a display and neither
    --video nor --record, else video, and none if the environment cannot be rendered."""
    video: Path | None = None
    """Video file, .mp4 or .gif; by default videos/ENV.mp4. An interrupted video is named NAME-partial."""
    record: int = 0
    """Episodes to record, each in a file of its own: NAME-episode-0, NAME-episode-1, ... for the NAME of --video. 0:
    one video of all episodes."""
    json: Path | None = None
    """JSON file for returns and speed; -: standard output, and messages on standard error."""


@dataclass(frozen=True)
class PlayConfig(DecodingArguments, ActorOptions, OutputOptions, PlayOptions):
    """Watch an agent or an expert play."""

    def count(self) -> int:
        """Number of episodes."""
        return self.episodes or max(1, self.record)

    def check(self) -> None:
        """Raise UsageError for an option out of range, or options that exclude each other."""
        at_least(1, episodes=self.episodes, n_envs=self.n_envs)
        at_least(0, seed=self.seed, hz=self.hz, record=self.record)
        self.check_actor()
        self.check_decoding()
        if self.expert is not None and self.checkpoint is not None:
            raise UsageError("--checkpoint and --expert both play: give one of them")
        if self.video:
            stride(self.video, FPS)  # a name that is none of a video is an error before anything is loaded
        if self.record > 1 and self.n_envs > 1:
            raise UsageError("--record records the first environment's episodes: leave --n-envs out")
        if self.record > self.count():
            raise UsageError(f"--record {self.record}: there are {self.count()} --episodes")
        if (self.record or self.video) and self.render in ("human", "none"):
            raise UsageError(f"--render {self.render} writes no video: leave it out, or --video and --record")


def play(config: PlayConfig) -> dict[str, Any]:
    """Play episodes; returns the content of the `--json` file.

    Raises:
        UsageError: an unknown environment or checkpoint, or one that was not trained on the environment.
        EnvironmentFault: the environment raised, or cannot render; completed episodes are written.
        KeyboardInterrupt: the first interrupt ends play after the current step; completed episodes are written.
    """
    config.check()
    env_id = find_spec(config.env).id  # a misspelt id is an error before anything is loaded
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    checkpoint = None if config.expert else Checkpoint.load(config.checkpoint, device)
    name = checkpoint.name if checkpoint else f"the expert {config.expert}"
    print_line(f"{env_id} with {name}{'' if config.expert else f' on {device}'}")
    with ExitStack() as stack:
        actor, envs, render = _rendered(config, checkpoint, env_id, device, stack)
        real_time = RealTimeActor(actor, config.hz)
        camera = EpisodeCamera(real_time, envs, env_id) if render == "video" else None
        path = config.video or Path("videos") / f"{quote(env_id, safe='')}.mp4"
        videos = EpisodeVideos(path, camera, config.record) if camera else None
        if videos:
            each = ", a video each" if config.record else ""
            print_line(f"recording {plural(config.record or config.count(), 'episode')}{each}: {videos.path}")
        episodes = Episodes(env_id, videos)
        result: dict[str, Any] = {"env": env_id, "checkpoint": None if config.expert else name, "expert": config.expert}
        try:
            with videos or nullcontext(), StopSignal() as stop:
                for step in _steps(config, camera or real_time, envs, actor):
                    episodes.add(step)
                    if stop.received:
                        raise KeyboardInterrupt
        finally:
            for video in videos.files if videos else ():
                print_line(f"video: {video}")
            result |= {"device": device, **episodes.summary()}
            if config.hz:
                result |= {"hz": config.hz, "control_steps": real_time.actions, "missed_deadlines": real_time.missed}
            if config.json and episodes.outcomes:
                write_json(config.json, result)
    mean = result["mean_return"]
    print_line(f"mean return {mean:.{decimals(mean)}f}, {result['steps_per_second']:.0f} steps/s")
    if config.hz:
        late = f"{real_time.missed} of {real_time.actions} deadlines missed at {config.hz:g} Hz"
        print_line(f"{late}, slowest step {real_time.worst * 1e3:.1f} ms")
    return result


def _steps(config: PlayConfig, actor: Actor, envs: VectorEnv[Any, Any, Any], seeded: Actor) -> Iterator[Step]:
    """Steps of all episodes; an expert takes each episode's seed, as in collection."""
    seeds = range(config.seed, config.seed + config.count())
    for group in [[seed] for seed in seeds] if config.expert else [seeds]:
        if config.expert:
            cast(Expert, seeded).seed(group[0])
        yield from steps(actor, envs, group)


def _rendered(
    config: PlayConfig, checkpoint: Checkpoint | None, env_id: str, device: str, stack: ExitStack
) -> tuple[Actor, VectorEnv[Any, Any, Any], str]:
    """Actor, environments and render mode; in mode auto the mode is none if the environment cannot be rendered."""
    render = _render_mode(config)
    try:
        return *_actor_and_envs(config, checkpoint, env_id, device, render, stack), render
    except CannotRender as error:
        if config.render != "auto" or config.video or config.record:
            raise
        print_line(f"played without rendering: {str(error).removesuffix(f'; {WITHOUT}')}")
        return *_actor_and_envs(config, checkpoint, env_id, device, "none", stack), "none"


def _actor_and_envs(
    config: PlayConfig, checkpoint: Checkpoint | None, env_id: str, device: str, render: str, stack: ExitStack
) -> ActorAndEnvs:
    kwargs, mode = parse_kwargs(config.env_kwargs), MODES[render]
    if checkpoint is None:
        settings = EvaluationSettings(
            None, config.expert, None, config.count(), config.seed, 1, env_kwargs=kwargs,
            statistics=config.expert_statistics, wrappers=parse_wrappers(config.expert_wrappers),
        )  # fmt: skip
        return stack.enter_context(expert_and_envs(EvaluationJob(config.env, env_id, settings), mode))
    return stack.enter_context(make_agent_and_envs(
        checkpoint, env_id, min(config.n_envs, config.count()), env_kwargs=kwargs, render_mode=mode, device=device,
        temperature=config.temperature, seed=config.seed, precision=config.precision, prompt=config.prompt,
        demo=config.demo, num_threads=config.num_threads,
    ))  # fmt: skip


class Episodes:
    """Outcomes of played episodes, each printed as it ends, and the speed of all steps but the first.

    Args:
        env_id: id of the environment.
        videos: videos of the first environment; None for none.
    """

    def __init__(self, env_id: str, videos: EpisodeVideos | None) -> None:
        self.outcomes: list[Outcome] = []
        self._totals, self._videos = EpisodeTotals(env_id), videos
        self._began: float | None = None  # the first step compiles and loads what it needs, and does not count
        self._steps = 0
        self._seconds = 0.0

    def add(self, step: Step) -> None:
        """Add a step: its frames to the videos, and its episode to the outcomes if it ends."""
        now = time.perf_counter()
        self._began = now if self._began is None else self._began
        self._steps, self._seconds = self._steps + 1, now - self._began
        outcome = self._totals.add(step)
        if self._videos is not None and step.env_index == 0:
            self._videos.add(step, outcome)
        if step.done:
            self.outcomes.append(outcome)
            success = {True: ", success", False: ", no success", None: ""}[outcome.success]
            total = f"{outcome.total:.{decimals(outcome.total)}f}"
            print_line(f"seed {step.seed}: return {total} in {outcome.length} steps{success}")

    def summary(self) -> dict[str, Any]:
        """Episodes, mean return, success rate and speed, as JSON."""
        episodes = [
            {"seed": e.seed, "return": e.total, "length": e.length, "success": e.success} for e in self.outcomes
        ]
        known = [each.success for each in self.outcomes if each.success is not None]
        return {
            "episodes": episodes,
            "mean_return": float(np.mean([each.total for each in self.outcomes])) if episodes else None,
            "success": float(np.mean(known)) if known else None,
            "steps_per_second": (self._steps - 1) / self._seconds if self._seconds else 0.0,
        }


def _render_mode(config: PlayConfig) -> str:
    """Render mode: a video in place of a window if there is no display, or a video file is named."""
    asked = "video" if config.render == "auto" and (config.video or config.record) else config.render
    if asked in ("auto", "human") and not has_display():
        if asked == "human":
            print_line("there is no display for a window here: writing a video")
        return "video"
    return "human" if asked == "auto" else asked
