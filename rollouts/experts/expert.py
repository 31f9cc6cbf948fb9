"""Experts as actors with a provenance, and the kinds by which they are named."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gymnasium.vector import VectorEnv

from gato_agent.envs.loop import Actor, Step
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers

NO_NETWORK = ("random", "scripted", "planned", "human")  # kinds of experts that need no torch
Provenance = dict[str, str]


class WindowOptions(NamedTuple):
    """Options of an expert that is a person at a window.

    Attributes:
        keys: actions by keys, as JSON; None for the environment's own or the defaults.
        fps: steps per second; None for those of the environment.
    """

    keys: str | None = None
    fps: float | None = None


class ExpertContext(NamedTuple):
    """Arguments of an expert's loader.

    Attributes:
        spec: the expert as the user named it, see `load_expert`.
        env_id: id of the environment.
        spaces: spaces of a single environment.
        seed: seed of random actions and of training.
        envs: environments in which the expert acts.
        env_kwargs: arguments of the environment.
        folder: folder of trained experts.
        train_steps: environment steps of training; None for the number that suits the task.
        statistics: file of VecNormalize statistics, or `none`.
        wrappers: wrappers of the expert's training.
        window: options of a person's window; None where there is none.
    """

    spec: str
    env_id: str
    spaces: Spaces
    seed: int = 0
    envs: VectorEnv[Any, Any, Any] | None = None
    env_kwargs: Mapping[str, Any] | None = None
    folder: Path = Path("data/experts")
    train_steps: int | None = None
    statistics: str | None = None
    wrappers: Wrappers | None = None
    window: WindowOptions | None = None


class Expert(Actor, Protocol):
    """An Actor with a provenance.

    Attributes:
        provenance: kind, source (a name, never a path of this machine) and sha256.
    """

    provenance: Provenance

    def seed(self, seed: int) -> None:
        """Seed the random numbers of the next episode, if there are any."""


@runtime_checkable
class Watching(Protocol):
    """An expert that sees the stream of steps beside its observations."""

    def watch(self, step: Step) -> None:
        """See a step, before the next action; an exception ends the episode."""


class ExpertKind(NamedTuple):
    """A way to name an expert.

    Attributes:
        form: the text that names it, in messages.
        matches: true for a `spec` of this kind.
        load: function that makes the expert.
        takes_sb3_options: true if `statistics` and `wrappers` have a meaning.
    """

    form: str
    matches: Callable[[str], bool]
    load: Callable[[ExpertContext], Expert]
    takes_sb3_options: bool = False
