"""Captioned frames of the episodes that a stream of steps plays."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from gymnasium.spaces import Dict
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.captions import captioned
from gato_agent.envs.loop import Actor, Step
from gato_agent.envs.tasks.task import find
from gato_agent.envs.video import VideoWriter, stride
from gato_agent.evaluation.metrics import decimals
from gato_agent.evaluation.task_score import Outcome

FPS = 15.0  # of an environment without render_fps
MOVES = 5.0  # a second, at most, of environments with missions: their steps are moves on a grid
LAST = 1.0  # seconds for which the last frame of an episode is shown
MISSION = "mission"  # observed text of environments whose task changes from episode to episode


class EpisodeCamera:
    """Actor that takes a picture of the first environment before each episode, and then one for each step on demand.

    Args:
        actor: chooses the actions.
        envs: environments that render the first of them.
        env_id: id of the environment.
    """

    def __init__(self, actor: Actor, envs: VectorEnv[Any, Any, Any], env_id: str) -> None:
        self._actor, self._envs, self._env_id = actor, envs, env_id
        task = find(env_id)
        self._mission = (task.instruction if task else None) or MISSION
        space = envs.single_observation_space
        self._lines = 2 if isinstance(space, Dict) and self._mission in space.spaces else 1
        self._first: NDArray[np.uint8] | None = None
        fps = float(envs.metadata.get("render_fps") or FPS)
        self.fps = fps if self._lines == 1 else min(fps, MOVES)

    def reset(self, num_envs: int) -> None:
        """Reset the actor."""
        self._actor.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Choose actions, after a picture of an episode's first state."""
        if start[0]:
            self._first = self._render()
        return self._actor.act(observation, start)

    def frames(self, step: Step, outcome: Outcome, every: int = 1) -> Iterator[NDArray[np.uint8]]:
        """Frames of a step: those of every so many steps and of the last, and at the first step the first state too.

        Args:
            step: of the first environment, the latest one.
            outcome: of its episode until this step.
            every: steps from one frame to the next.
        """
        title = step.obs.get(self._mission) if isinstance(step.obs, dict) else None
        title = title if isinstance(title, str) else self._env_id
        if step.t == 0 and self._first is not None:
            yield captioned(self._first, title, _status(outcome._replace(total=0.0, length=0), done=False), self._lines)
        if (step.t + 1) % every == 0 or step.done:
            yield captioned(self._render(), title, _status(outcome, done=step.done), self._lines)

    def _render(self) -> NDArray[np.uint8]:
        frame: Any = (self._envs.render() or ())[0]  # checked by the environment's wrapper
        return np.asarray(frame)


class EpisodeVideos:
    """Video files of the first environment's episodes, as a context.

    An interrupted file is named `NAME-partial`, so that it replaces no complete one.

    Args:
        path: file of all episodes; of separate ones `-episode-0`, `-episode-1`, ... is added to its name.
        camera: takes the frames.
        record: number of episodes in a file each; 0: one file for all episodes.

    Attributes:
        files: files that are finished.
    """

    def __init__(self, path: Path, camera: EpisodeCamera, record: int = 0) -> None:
        self.files: list[Path] = []
        self._path, self._camera, self._record, self._episode = path, camera, record, 0
        self._every = stride(path, camera.fps)
        self._fps = camera.fps / self._every
        self._writer: VideoWriter | None = VideoWriter(self.path, self._fps)

    @property
    def path(self) -> Path:
        """File that is being written."""
        return self._path.with_stem(f"{self._path.stem}-episode-{self._episode}") if self._record else self._path

    def add(self, step: Step, outcome: Outcome) -> None:
        """Write the frames of a step of the first environment; the last one of an episode is held."""
        if self._writer is None:
            return
        frames = list(self._camera.frames(step, outcome, self._every))
        for frame in frames + frames[-1:] * (round(LAST * self._fps) - 1 if step.done else 0):
            self._writer.write(frame)
        if step.done and self._record:
            self.files.append(self._writer.close())
            self._episode += 1
            self._writer = VideoWriter(self.path, self._fps) if self._episode < self._record else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        file = None if self._writer is None else self._writer.close() if kind is None else self._writer.interrupt()
        self.files += [] if file is None else [file]


def _status(outcome: Outcome, *, done: bool) -> str:
    """Line such as `return 12.5   step 40   success`."""
    success = {True: "   success", False: "   no success" if done else "", None: ""}[outcome.success]
    return f"return {outcome.total:.{decimals(outcome.total)}f}   step {outcome.length:,}{success}"
