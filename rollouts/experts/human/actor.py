"""A person who plays in a window, as an Actor; the window consumes the same stream of steps as the collection.

    act()     draws the environment and waits for a key, or for the time of the next frame
    watch()   counts the return; after the last step the person keeps the episode, goes back in it, or plays it again

An episode is interrupted by an exception: PlayAgain for the same seed, WindowClosed for the end of the collection. To
go back, the episode is played again from its seed with the actions until there.
"""

import hashlib
from collections import deque
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.loop import Step
from gato_agent.envs.spaces.batch_of_one import batch_of_one, only_one
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.human.keys import AGAIN, CONTROLS, KEEP, PAUSE, QUIT, UNDO, find_keys
from gato_agent.rollouts.experts.human.window import CLOSED, Window, start_pygame

FPS = 30.0  # of an environment without render_fps, as in Gymnasium's `play`
POLL = 30.0  # looks at the keys per second while the environment waits
HELP = "Backspace: back   Delete: play again   F1: pause   Esc: quit"
ENDED = "Enter: keep   Backspace: back   Delete: drop   Esc: keep and quit"
DIFFERS = "the environment did not repeat the same steps: the episode goes on from similar ones"


class PlayAgain(KeyboardInterrupt):
    """Interrupt of an episode that is played again from its seed."""


class WindowClosed(KeyboardInterrupt):
    """Interrupt of the collection by the person at the window; finished episodes are kept."""


class HumanActor:
    """A person at a window who plays one environment.

    Attributes:
        provenance: the same for all keys, so that a collection goes on with others.
    """

    def __init__(
        self, env_id: str, spaces: Spaces, envs: VectorEnv[Any, Any, Any], keys: str | None, fps: float | None
    ) -> None:
        """Read the keys; the window opens at the first step.

        Args:
            env_id: id of the environment.
            spaces: its spaces.
            envs: the environment, made with the render mode rgb_array.
            keys: actions by keys, as JSON; None for the environment's own or the defaults.
            fps: steps per second; None for the environment's own.

        Raises:
            UsageError: no pygame, no display, or no keys for the action space.
        """
        start_pygame()
        assert isinstance(envs, SyncVectorEnv)
        self._env_id, self._envs = env_id, envs
        self._keys = find_keys(envs.envs[0], env_id, keys)
        self._fps = fps or float(envs.metadata.get("render_fps") or FPS)
        self._real_time = self._keys.rest is not None
        self._window = Window(0.0 if self._real_time else self._fps)
        self._batch, self._one = batch_of_one(spaces.action), only_one(spaces.observation)
        self.provenance = {
            "kind": "human", "source": "keyboard or gamepad", "sha256": hashlib.sha256(b"human").hexdigest(),
        }  # fmt: skip
        self._seed: int | None = None
        self._episode = 1
        self._replay: deque[Any] = deque()  # actions of an episode that was gone back in
        self._expected: Any = None  # observation after them
        self._leaving: KeyboardInterrupt | None = None  # raised after the finished episode is kept
        self._begin()

    def _begin(self) -> None:
        self._actions: list[Any] = []
        self._observed: list[Any] = []
        self._texts: list[str] = []  # observed, such as a mission
        self._total, self._paused, self._note = 0.0, True, ""

    def seed(self, seed: int) -> None:
        """Begin the episode of a seed."""
        if seed != self._seed:
            self._replay.clear()
            self._expected = None
        self._seed = seed
        self._begin()

    def reset(self, num_envs: int) -> None:
        """Do nothing: `seed` begins an episode."""

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """The person's action, or the next one of the steps that are repeated.

        Raises:
            PlayAgain: the person goes back, or begins again.
            WindowClosed: the person quits.
        """
        if self._leaving is not None:
            raise self._leaving
        action = self._replay.popleft() if self._replay else self._chosen(self._one(observation))
        self._actions.append(action)
        return self._batch(action)

    def watch(self, step: Step) -> None:
        """Count a step; after the last one, return if the episode is kept; raises PlayAgain otherwise."""
        self._total += step.reward
        self._observed.append(step.obs)
        if not step.done:
            return
        self._texts = _texts(step.next_obs)
        if self._replay:
            self._replay.clear()
            self._note = DIFFERS
        try:
            self._review()
        except PlayAgain:
            raise
        except KeyboardInterrupt as interrupt:  # Ctrl+C too: the episode is finished
            self._leaving = interrupt
        self._episode += 1

    def _chosen(self, observation: Any) -> Any:
        if self._expected is not None:
            self._note = "" if _same(observation, self._expected) else DIFFERS
            self._expected = None
        self._texts = _texts(observation)
        if self._real_time and not self._paused:
            self._draw(HELP)
            self._window.tick(self._fps)
            while (key := self._window.next_key()) is not None:
                self._control(key)
        if self._paused or not self._real_time:
            self._wait()
        action = self._keys.action(self._window.held)
        self._window.settle()
        return action

    def _wait(self) -> None:
        """Wait for a key: in real time for any after a pause, else for one that stands for an action."""
        while True:
            what = "press a key to start" if self._paused else "press a key"
            self._draw(self._note or f"{what}: {', '.join(self._keys.names)}", HELP)
            self._window.tick(POLL)
            while (key := self._window.next_key()) is not None:
                self._control(key)
                mapped = self._keys.name(key) in self._keys.names and self._keys.action(self._window.held) is not None
                if mapped or (self._real_time and key not in CONTROLS):
                    self._paused, self._note = False, ""
                    return
            if not self._real_time:
                self._window.settle()

    def _review(self) -> None:
        """Show the end of an episode until it is kept; raises PlayAgain or WindowClosed."""
        while True:
            self._draw(self._note or "the episode is over", ENDED, over=True)
            self._window.tick(POLL)
            while (key := self._window.next_key()) is not None:
                if key == KEEP:
                    return
                if key != PAUSE:
                    self._control(key)

    def _control(self, key: str) -> None:
        """Do what a key of CONTROLS stands for; nothing for other keys."""
        if key in (QUIT, CLOSED):
            raise WindowClosed
        if key == PAUSE:
            self._paused = True
        elif key == AGAIN:
            raise PlayAgain
        elif key == UNDO and self._actions:
            back = max(1, round(self._fps)) if self._real_time else 1
            count = max(0, len(self._actions) - back)
            self._replay, self._expected = deque(self._actions[:count]), self._observed[count]
            raise PlayAgain

    def _draw(self, *lines: str, over: bool = False) -> None:
        image: Any = (self._envs.render() or ())[0]  # checked by the environment's wrapper
        status = f"seed {self._seed}, step {len(self._actions)}, return {self._total:.2f}"
        title = f"{self._env_id}: {status}{', over' if over else ''}"
        self._window.draw(np.asarray(image), title, (f"{status}, episode {self._episode}", *self._texts, *lines))


def _texts(observation: Any) -> list[str]:
    """Strings of an observation, or of the entries of a Dict."""
    values = observation.values() if isinstance(observation, dict) else [observation]
    return [f"{value:.80}" for value in values if isinstance(value, str)]


def _same(first: Any, second: Any) -> bool:
    """True if two observations are equal."""
    from gymnasium.utils.env_checker import data_equivalence

    return data_equivalence(first, second, exact=True)
