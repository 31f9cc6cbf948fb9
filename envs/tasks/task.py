"""Catalogue of tasks: suite, view, expert, and the scores of random actions and of the expert.

`suites/` has one table per suite, in the format of `suite_file.py`. Any other Gymnasium id works too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gymnasium.spaces import Space

from gato_agent.envs.errors import GatoError, SpaceError
from gato_agent.envs.spaces.views import EVERYTHING, View
from gato_agent.envs.tasks.packages import SUITES, installed, packages_of


@dataclass(frozen=True)
class Score:
    """Undiscounted returns of one actor on one task, and everything needed to measure them again.

    Attributes:
        mean: mean return.
        std: standard deviation over episodes (ddof=0), as in Stable-Baselines3's `evaluate_policy`.
        episodes: number of episodes.
        seeds: first and last seed, one per episode.
        how: the actor in words, with the SHA-256 of an expert's weights.
        versions: version of each package that affects the returns.
        success: share of the episodes with success at any step, from 0 to 1.
        horizon_mean: mean return when episodes go on after success until the horizon (Meta-World, as in JAT).
        horizon_std: standard deviation of the same returns.
    """

    mean: float
    std: float
    episodes: int
    seeds: tuple[int, int]
    how: str
    versions: Mapping[str, str]
    success: float | None = None
    horizon_mean: float | None = None
    horizon_std: float | None = None


@dataclass(frozen=True)
class Task:
    """An environment id of the catalogue with its properties.

    Attributes:
        id: id in Gymnasium's registry.
        suite: name of the suite's table.
        horizon: maximal number of steps of an episode; `make` enforces it where Gymnasium has no limit.
        extra: extra of this package that installs the suite.
        view: view of the observations that become tokens; the default shows all of an observation.
        grouped_view: view for models with several values per token, if it differs from `view`.
        instruction: path of the observed text that is constant within an episode.
        text_pieces: number of tokens of an observed text, if it is not 32.
        observes: observation space in words.
        acts: action space in words.
        tokens_per_timestep: number of tokens of observation, separator and action, through the view.
        success: key of `info` that reports success, if the task has one.
        expert_kind: kind of the expert that `gato-agent collect` uses; None if there is none.
        expert_source: author of the expert.
        random: score of uniformly random actions.
        expert: score of the expert.
    """

    id: str
    suite: str
    horizon: int | None = None
    random: Score | None = None
    expert: Score | None = None
    extra: str | None = None
    view: View = EVERYTHING
    grouped_view: View | None = None
    instruction: str | None = None
    text_pieces: int | None = None
    observes: str | None = None
    acts: str | None = None
    tokens_per_timestep: int | None = None
    success: str | None = None
    expert_kind: str | None = None
    expert_source: str | None = None

    @property
    def by_success(self) -> bool:
        """True if the score of the task is its success rate, because its episodes end at success.

        A return then depends on the length of the episode, and an expert's may be less than that of random actions.
        """
        return self.random is not None and self.random.horizon_mean is not None

    def reference(self, score: Score | None) -> float | None:
        """Success rate or mean return of a score, to normalise others by; None if it is not measured."""
        return None if score is None else score.success if self.by_success else score.mean


def find(env_id: str) -> Task | None:
    """Task of an environment id; None for ids outside of the catalogue."""
    return catalogue().get(env_id)


def install_hint(env_id: str) -> str | None:
    """Command that installs the packages of a task; None if they are installed, or the task is unknown."""
    task = find(env_id)
    return None if task is None or is_installed(task) else f"pip install 'gato-agent[{task.extra}]'"


def is_installed(task: Task) -> bool:
    """True if the packages of a task are installed; they are not imported."""
    return all(map(installed, packages_of(task.extra)))


def view_of(env_id: str, observation_space: Space[Any], grouped: bool = False) -> View:
    """View of the catalogue for an environment; the whole observation if the view does not fit the space.

    Args:
        env_id: id in Gymnasium's registry.
        observation_space: observation space, which arguments of the environment may have changed.
        grouped: true for models with several values per token.
    """
    task = find(env_id)
    if task is None:
        return EVERYTHING
    view = task.grouped_view if grouped and task.grouped_view else task.view
    try:
        view.space(observation_space)
    except SpaceError:
        return EVERYTHING
    return view


def families() -> list[str]:
    """Names of the suites, in alphabetical order."""
    return sorted(file.stem for file in SUITES.glob("*.toml"))


@cache
def catalogue() -> dict[str, Task]:
    """All tasks by environment id, ordered by suite."""
    from gato_agent.envs.tasks.suite_file import read_suite

    tasks: dict[str, Task] = {}
    for file in sorted(SUITES.glob("*.toml")):
        suite = read_suite(file)
        for env_id in [env_id for env_id in suite if env_id in tasks]:
            raise GatoError(f"{file.name}: {env_id} is also in {tasks[env_id].suite}.toml: delete one of the two")
        tasks |= suite
    return tasks
