"""Reader of a suite's table of tasks, a TOML file.

    extra = "box2d"                     # optional, as all keys below but those of a score

    [tasks."LunarLander-v3"]
    horizon = 1000
    observes = "Box 8"
    acts = "Discrete 4"
    instruction = "mission"
    text_pieces = 8
    tokens_per_timestep = 10
    success = "success"
    expert_kind = "catalogue"
    expert_source = "stable-baselines3 ppo, rl-trained-agents"
    view = [{ select = "", index = [0, 1, 2] }]  # see views.py
    grouped_view = []                    # view for models with several values per token

    [tasks."LunarLander-v3".expert]     # and .random
    mean = 242.1
    std = 18.9
    episodes = 100
    seeds = [1000000, 1000099]          # first and last, one per episode
    how = "greedy, sb3:ppo"
    versions = { gymnasium = "1.4.0" }
    success = 0.98
    horizon_mean = 242.1
    horizon_std = 18.9

`view`, `instruction`, `expert_kind`, ... at the top of the file are defaults of all its tasks.
"""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import GatoError
from gato_agent.envs.io import plain
from gato_agent.envs.spaces.views import View
from gato_agent.envs.tasks.task import Score, Task

WORDS = ("observes", "acts", "instruction", "success", "expert_kind", "expert_source")
SHARED: dict[str, type] = {**dict.fromkeys(WORDS, str), "view": list, "grouped_view": list}
TASK = {"horizon": int, "text_pieces": int, "tokens_per_timestep": int, **SHARED}
SCORE = {"mean": float, "std": float, "episodes": int, "seeds": list, "how": str, "versions": dict}
EXTRAS = {"success": float, "horizon_mean": float, "horizon_std": float}


def read_suite(file: Path) -> dict[str, Task]:
    """Read the tasks of one suite, which is named by the file's stem.

    Raises:
        GatoError: not TOML, an unknown or missing key, a value of the wrong type; the message names file and key.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GatoError(f"{file.name}: not valid TOML: {error}") from error
    top = _checked(table, f"{file.name}: ", required={"tasks": dict}, optional={"extra": str, **SHARED})
    shared = {key: value for key, value in top.items() if key != "tasks"}
    way_out = "write the registered id alone"
    return {
        plain.env_id(name, file.name, way_out): _task(name, value, f"{file.name}: tasks.{name}.", file.stem, shared)
        for name, value in top["tasks"].items()
    }


def _task(env_id: str, table: Any, where: str, suite: str, shared: Mapping[str, Any]) -> Task:
    known = _checked(table, where, required={}, optional={**TASK, "random": dict, "expert": dict})
    entries: dict[str, Any] = {**shared, **known}
    entries |= {name: _score(known[name], f"{where}{name}.") for name in ("random", "expert") if name in known}
    for key in ("view", "grouped_view"):
        try:
            entries |= {key: View.from_json(entries[key])} if key in entries else {}
        except GatoError as error:
            raise GatoError(f"{where}{key}: {error}") from None
    return Task(id=env_id, suite=suite, **entries)


def _score(table: Any, where: str) -> Score:
    known = _checked(table, where, required=SCORE, optional=EXTRAS)
    _checked(known["versions"], f"{where}versions.", required={}, optional=dict.fromkeys(known["versions"], str))
    seeds, episodes = known["seeds"], known["episodes"]
    if [type(seed) for seed in seeds] != [int, int] or seeds[1] - seeds[0] + 1 != episodes:
        raise GatoError(f"{where}seeds is {seeds}, not the first and last of {episodes} seeds")
    if not 0 <= known.get("success", 0.0) <= 1:
        raise GatoError(f"{where}success is {known['success']}, not a share from 0 to 1")
    return Score(**{**known, "seeds": tuple(seeds)})


def _checked(table: Any, where: str, required: Mapping[str, type], optional: Mapping[str, type]) -> dict[str, Any]:
    """Check a table: all required keys, no unknown ones, finite values of exactly these types; return it."""
    if not isinstance(table, dict):
        raise GatoError(f"{where.rstrip('.')} is not a table")
    kinds = {**required, **optional}
    for key, value in table.items():
        if key not in kinds:
            raise GatoError(f"{where}{key} is unknown; known keys: {', '.join(kinds)}")
        if type(value) is not kinds[key]:
            raise GatoError(f"{where}{key} is {value!r}, not of type {kinds[key].__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise GatoError(f"{where}{key} is {value}, which is not finite")
    for key in required:
        if key not in table:
            raise GatoError(f"{where}{key} is missing")
    return table
