"""The tasks that are known by name: their families, views, experts, and the scores of a random and an expert player.

`suites/` holds one table per family as data; `suite_file.py` says what stands in it. Any other Gymnasium id works too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gymnasium.spaces import Space

from gato_agent.envs.errors import GatoError, SpaceError
from gato_agent.envs.spaces.views import EVERYTHING, View
from gato_agent.envs.tasks.packages import EXTRAS, installed

SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class Score:
    """Returns of one player on one task, and all that it takes to measure them again.

    Attributes:
        mean: of the returns, not discounted.
        std: of the episodes themselves (ddof=0), as Stable-Baselines3's `evaluate_policy` gives it.
        episodes: how many were played.
        seeds: first and last, one an episode.
        how: who played, in words; with the sha256 of an expert's weights.
        versions: of the packages that the figures hang on.
        success: share of the episodes in which the task's `success` was reported at any step.
        horizon_mean: of the returns when episodes go on after success until the horizon (Meta-World, as JAT has it).
        horizon_std: likewise.
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
    """An environment id with what is known about it.

    Attributes:
        id: what Gymnasium calls it.
        suite: its family, which is the name of the table that it stands in.
        horizon: steps that an episode can have at most; `make` sees to it where Gymnasium has no limit.
        extra: extra of this package that installs the suite.
        view: what of an observation becomes tokens, without steps all of it.
        grouped_view: what becomes tokens where one holds many values, if that is to be another.
        instruction: path of the text in its observation that stays the same all through an episode.
        text_pieces: tokens that an observed text is given, where a task needs fewer or more than 32.
        observes: its observation space in a few words.
        acts: its action space in a few words.
        tokens_per_timestep: observation, separator and action, through the view.
        success: name of the entry of `info` that says so, where the task has a notion of success.
        expert_kind: what `gato-agent collect --expert` gets for it; None where there is none.
        expert_source: by whom the expert was made.
        random: score of uniformly random actions.
        expert: score of that expert.
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
        """Whether its score is the share of episodes that succeed, because they end at success.

        A return then says how long it took, and an expert may have less of it than a random player.
        """
        return self.random is not None and self.random.horizon_mean is not None

    def reference(self, score: Score | None) -> float | None:
        """The figure of a player that others are set beside: its success or its mean return; None if not measured."""
        return None if score is None else score.success if self.by_success else score.mean


def find(env_id: str) -> Task | None:
    """Return the task of that environment id, or None: any Gymnasium id can be used, known here or not."""
    return catalogue().get(env_id)


def install_hint(env_id: str) -> str | None:
    """The command that installs a known task; None if it is installed, or not known here."""
    task = find(env_id)
    return None if task is None or is_installed(task) else f"pip install 'gato-agent[{task.extra}]'"


def is_installed(task: Task) -> bool:
    """Whether the packages of a task are there; they are not imported."""
    return all(installed(package) for package, extra in EXTRAS.items() if extra == task.extra)


def view_of(env_id: str, observation_space: Space[Any], grouped: bool = False) -> View:
    """The catalogue's view of that environment where it suits the space, which other arguments may have changed.

    Args:
        env_id: what Gymnasium calls it.
        observation_space: its observation space.
        grouped: whether one token holds many values.
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
    """Names of the suites, in order."""
    return sorted(file.stem for file in SUITES.glob("*.toml"))


@cache
def catalogue() -> dict[str, Task]:
    """Return every known task by environment id, suite by suite."""
    from gato_agent.envs.tasks.suite_file import read_suite

    tasks: dict[str, Task] = {}
    for file in sorted(SUITES.glob("*.toml")):
        suite = read_suite(file)
        for env_id in [env_id for env_id in suite if env_id in tasks]:
            raise GatoError(f"{file.name}: {env_id} is in {tasks[env_id].suite}.toml already; keep one of the two")
        tasks |= suite
    return tasks
