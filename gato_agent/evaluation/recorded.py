"""Recorded results played again, for their videos: what only a user may name is asked of the user.

A results file says who played, and how. It may come from elsewhere, so all of it passes the gate (`envs.plain`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.io import plain
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.worker import EvaluationSettings, expert_sha256
from gato_agent.inference.decoder import Precision
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers, check_wrappers
from gato_agent.rollouts.experts.sb3.run_files import NONE
from gato_agent.tokens.prompt import Kind


@dataclass(frozen=True)
class Given:
    """What a user names to play recorded results again; None where the results themselves say enough.

    Attributes:
        checkpoint: reference of the checkpoint.
        expert: who plays instead, as `load_expert` takes it.
        env_kwargs: arguments of the environments.
        demo: folder with demonstrations.
        statistics: those of an SB3 expert, as `load_expert` takes them.
        wrappers: likewise.
    """

    checkpoint: str | None = None
    expert: str | None = None
    env_kwargs: dict[str, Any] | None = None
    demo: Path | None = None
    statistics: str | None = None
    wrappers: Wrappers | None = None


def recorded(results: Results, given: Given) -> EvaluationSettings:
    """The conditions of recorded results, to play them again: what only a user may name has to be given.

    Args:
        results: of a file.
        given: what the user named.

    Raises:
        UsageError: the file names what no file may, and the user did not; or the user named another than was recorded.
        GatoError: settings that no evaluation has.
    """
    how, file = results.settings, f"the evaluation of {results.actor}"
    _check_settings(how, file)
    expert, demo, kwargs = how.get("expert"), how.get("demo"), how.get("env_kwargs", {})
    if given.expert is not None:
        if given.expert != expert and (results.sha256 is None or expert_sha256(given.expert) != results.sha256):
            raise UsageError(f"--expert {given.expert}: {file} is of the expert {expert!r:.80}")
        expert = given.expert
    elif expert is not None:
        expert = plain.expert(expert, file, "name it with --expert")
    if given.env_kwargs is None:
        kwargs = plain.env_kwargs(kwargs, file, "give them with --env-kwargs")
    elif given.env_kwargs != kwargs:
        raise UsageError(f"--env-kwargs: {file} is with {json.dumps(kwargs):.200}")
    if given.demo is not None:
        demo = given.demo
    elif demo is not None:
        demo = plain.path(demo, file, "name it with --demo")
    statistics, wrappers = _behind(how, given, file)
    checkpoint = given.checkpoint
    if checkpoint is None and expert is None:
        checkpoint = plain.checkpoint(results.checkpoint, file, "name it with --checkpoint")
    known = {key: how[key] for key in ("temperature", "precision", "prompt", "n_envs") if key in how}
    return EvaluationSettings(
        checkpoint, expert, results.sha256, how["episodes"], how["seed"], demo=demo, env_kwargs=kwargs,
        statistics=statistics, wrappers=wrappers, **{"n_envs": 1, **known},
    )  # fmt: skip


def _behind(how: Mapping[str, Any], given: Given, file: str) -> tuple[str | None, Wrappers | None]:
    """Statistics and wrappers of an SB3 expert, those that the user named or plain ones; raises as `recorded`."""
    statistics, wrappers = given.statistics, how.get("wrappers")
    if statistics is None and (statistics := how.get("statistics")) not in (None, NONE):
        statistics = str(plain.path(statistics, file, "name it with --expert-statistics"))
    if given.wrappers is not None and given.wrappers != wrappers:
        raise UsageError(f"--expert-wrappers: {file} is with {json.dumps(wrappers):.200}")
    return statistics, None if wrappers is None else check_wrappers(wrappers, f"{file} has wrappers {wrappers!r:.80}")


def _check_settings(how: Mapping[str, Any], file: str) -> None:
    """Raise GatoError for numbers and choices that no evaluation has."""
    warm = how.get("temperature", 0.0)
    counts = {"n_envs": how.get("n_envs", 1), "episodes": how.get("episodes"), "seed": how.get("seed")}
    wrong = [key for key, count in counts.items() if type(count) is not int or count < 0]
    every = warm.values() if isinstance(warm, dict) else [warm]
    wrong += ["temperature"] * any(type(each) not in (int, float) or not 0 <= each < math.inf for each in every)
    wrong += ["precision"] * (how.get("precision", "float32") not in get_args(Precision))
    wrong += ["prompt"] * (how.get("prompt") not in (None, *get_args(Kind)))
    if wrong:
        raise GatoError(f"{file} has {wrong[0]} {how.get(wrong[0])!r:.80}, which no evaluation has: evaluate again")
