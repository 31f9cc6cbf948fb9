"""Collection by a person at a window: in this process, one environment after the other."""

import os
from collections.abc import Generator, Sequence
from contextlib import closing

from gato_agent.envs.errors import UsageError
from gato_agent.envs.make import has_display
from gato_agent.rollouts.collection.collect_config import CollectConfig
from gato_agent.rollouts.collection.episode_worker import CollectJob, Players, Result, idle_heartbeat
from gato_agent.rollouts.experts.expert import WindowOptions

FASTEST = 1000.0  # steps per second
INTRODUCTION = (
    "--expert human: you play in a window, in this process (--workers 0). Enter keeps a finished episode, Backspace "
    "goes back, Delete plays the episode again, F1 pauses, Escape quits; the same command goes on."
)


def window_options(config: CollectConfig) -> WindowOptions | None:
    """Options of the window of `--expert human`; None for another expert.

    Raises:
        UsageError: options that do not go together, or no display.
    """
    if config.expert != "human":
        for name, value in (("keys", config.keys), ("fps", config.fps)):
            if value is not None:
                raise UsageError(f"--{name} is for --expert human: leave it out")
        return None
    if config.workers or config.ray:
        name = "ray" if config.ray else f"workers {config.workers}"
        raise UsageError(f"--expert human plays in one window and one process: leave --{name} out")
    if config.noise or config.dagger:
        raise UsageError(f"--expert human takes no --{'noise' if config.noise else 'dagger'}: leave it out")
    if config.fps is not None and not 0 < config.fps <= FASTEST:
        raise UsageError(f"--fps {config.fps}: it must be above 0, to {FASTEST:g}")
    if not has_display() and "SDL_VIDEODRIVER" not in os.environ:
        raise UsageError("--expert human opens a window, and there is no display: run it on a desktop, or set DISPLAY")
    return WindowOptions(config.keys, config.fps)


def play_by_hand(jobs: Sequence[CollectJob], missing: Sequence[Sequence[int]]) -> Generator[list[Result], None, None]:
    """Play one seed after the other until the person quits; each finished episode is yielded at once."""
    from gato_agent.rollouts.experts.human.actor import WindowClosed
    from gato_agent.rollouts.experts.human.window import close_window

    try:
        with closing(Players(jobs)) as players:
            for job, seeds in enumerate(missing):
                for seed in seeds:
                    results = _played(players, job, seed)
                    yield results
                    if results[-1].seed is None:
                        break  # the job cannot be played
    except WindowClosed:
        return
    finally:
        close_window()


def _played(players: Players, job: int, seed: int) -> list[Result]:
    """Result of a seed, which is played until the person keeps the episode."""
    from gato_agent.rollouts.experts.human.actor import PlayAgain

    while True:
        try:
            return list(players.play(job, (seed,), idle_heartbeat()))
        except PlayAgain:
            continue
