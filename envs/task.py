"""The tasks that are known by name: their horizon and the scores of a random and an expert player, as data.

One TOML file per suite in `suites/`:

    extra = "box2d"                     # optional: the extra of this package that installs the suite

    [tasks."LunarLander-v3"]
    horizon = 1000                      # optional: the time limit in steps

    [tasks."LunarLander-v3".expert]     # optional, as is .random
    mean = 242.1                        # of the returns, not discounted
    std = 18.9
    episodes = 100
    seeds = [1000000, 1000099]          # first and last, one an episode
    how = "greedy, sb3:ppo"
    versions = { gymnasium = "1.4.0" }
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import GatoError

SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class Score:
    """Returns of one player on one task, and all that it takes to measure them again.

    `std` is that of the episodes themselves (ddof=0), as Stable-Baselines3's `evaluate_policy` gives it.
    """

    mean: float
    std: float
    episodes: int
    seeds: tuple[int, int]
    how: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """An environment id with what is known about it; `horizon` is in steps, None where there is no limit."""

    id: str
    suite: str
    horizon: int | None = None
    random: Score | None = None
    expert: Score | None = None
    extra: str | None = None


def find(env_id: str) -> Task | None:
    """Return the task of that environment id, or None: any Gymnasium id can be used, known here or not."""
    return catalogue().get(env_id)


@cache
def catalogue() -> dict[str, Task]:
    """Return every known task by environment id, suite by suite."""
    tasks: dict[str, Task] = {}
    for file in sorted(SUITES.glob("*.toml")):
        suite = read_suite(file)
        for env_id in [env_id for env_id in suite if env_id in tasks]:
            raise GatoError(f"{file.name}: {env_id} is in {tasks[env_id].suite}.toml already; keep one of the two")
        tasks |= suite
    return tasks


def read_suite(file: Path) -> dict[str, Task]:
    """Read one suite; its name is the file's.

    Raises:
        GatoError: not TOML, an unknown or missing key, a value of the wrong kind; the message names file and key.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GatoError(f"{file.name}: not valid TOML: {error}") from error
    top = _checked(table, f"{file.name}: ", required={"tasks": dict}, optional={"extra": str})
    return {
        env_id: _task(env_id, value, f"{file.name}: tasks.{env_id}.", file.stem, top.get("extra"))
        for env_id, value in top["tasks"].items()
    }


def _task(env_id: str, table: Any, where: str, suite: str, extra: str | None) -> Task:
    known = _checked(table, where, required={}, optional={"horizon": int, "random": dict, "expert": dict})
    scores = {name: _score(known[name], f"{where}{name}.") for name in ("random", "expert") if name in known}
    return Task(env_id, suite, known.get("horizon"), extra=extra, **scores)


def _score(table: Any, where: str) -> Score:
    kinds = {"mean": float, "std": float, "episodes": int, "seeds": list, "how": str, "versions": dict}
    known = _checked(table, where, required=kinds, optional={})
    _checked(known["versions"], f"{where}versions.", required={}, optional=dict.fromkeys(known["versions"], str))
    seeds, episodes = known["seeds"], known["episodes"]
    if [type(seed) for seed in seeds] != [int, int] or seeds[1] - seeds[0] + 1 != episodes:
        raise GatoError(f"{where}seeds is {seeds}, not the first and last of {episodes} seeds")
    return Score(**{**known, "seeds": tuple(seeds)})


def _checked(table: Any, where: str, required: Mapping[str, type], optional: Mapping[str, type]) -> dict[str, Any]:
    """Return `table` if it has every required key, no unknown one, and finite values of exactly these types."""
    if not isinstance(table, dict):
        raise GatoError(f"{where.rstrip('.')} is not a table")
    kinds = {**required, **optional}
    for key, value in table.items():
        if key not in kinds:
            raise GatoError(f"{where}{key} is unknown; known here: {', '.join(kinds)}")
        if type(value) is not kinds[key]:
            raise GatoError(f"{where}{key} is {value!r}, not of type {kinds[key].__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise GatoError(f"{where}{key} is {value}, which is not finite")
    for key in required:
        if key not in table:
            raise GatoError(f"{where}{key} is missing")
    return table
