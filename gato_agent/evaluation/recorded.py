"""Settings that replay recorded results, for their videos.

A results file may come from elsewhere, so the names in it pass the gate (`envs.io.plain`); names that no file may give
have to come from the user.
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
from gato_agent.inference.decoders.decoder import Precision
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers, check_wrappers
from gato_agent.rollouts.experts.sb3.run_files import NONE
from gato_agent.tokens.prompt import Kind


@dataclass(frozen=True)
class ReplayOptions:
    """User's names for replaying recorded results; None takes the one in the results.

    Attributes:
        checkpoint: reference of the checkpoint.
        expert: expert instead of a checkpoint, as `load_expert` takes it.
        env_kwargs: arguments of the environments.
        demo: folder with demonstrations.
        statistics: VecNormalize statistics of an SB3 expert, as `load_expert` takes them.
        wrappers: observation wrappers of an SB3 expert, as `load_expert` takes them.
    """

    checkpoint: str | None = None
    expert: str | None = None
    env_kwargs: dict[str, Any] | None = None
    demo: Path | None = None
    statistics: str | None = None
    wrappers: Wrappers | None = None


def replay_settings(results: Results, options: ReplayOptions) -> EvaluationSettings:
    """Evaluation settings that replay recorded results.

    Args:
        results: of a file.
        options: names from the user, which replace those in the file.

    Raises:
        UsageError: a name that no file may give is not among `options`, or `options` contradict the results.
        GatoError: settings in the file are out of range.
    """
    settings, file = results.settings, f"the evaluation of {results.actor}"
    _check_settings(settings, file)
    expert, demo, kwargs = settings.get("expert"), settings.get("demo"), settings.get("env_kwargs", {})
    if options.expert is not None:
        if options.expert != expert and (results.sha256 is None or expert_sha256(options.expert) != results.sha256):
            actor = f"of the expert {expert!r:.80}" if expert else "of a checkpoint: leave --expert out"
            raise UsageError(f"--expert {options.expert}: {file} is {actor}")
        expert = options.expert
    elif expert is not None:
        expert = plain.expert(expert, file, "name it with --expert")
    if options.env_kwargs is None:
        kwargs = plain.env_kwargs(kwargs, file, "give them with --env-kwargs")
    elif options.env_kwargs != kwargs:
        raise UsageError(f"--env-kwargs: {file} is with {json.dumps(kwargs):.200}")
    if options.demo is not None:
        demo = options.demo
    elif demo is not None:
        demo = plain.path(demo, file, "name it with --demo")
    statistics, wrappers = _statistics_and_wrappers(settings, options, file)
    checkpoint = options.checkpoint
    if checkpoint is None and expert is None:
        checkpoint = plain.checkpoint(results.checkpoint, file, "name it with --checkpoint")
    known = {key: settings[key] for key in ("temperature", "precision", "prompt", "n_envs") if key in settings}
    return EvaluationSettings(
        checkpoint, expert, results.sha256, settings["episodes"], settings["seed"], demo=demo, env_kwargs=kwargs,
        statistics=statistics, wrappers=wrappers, **{"n_envs": 1, **known},
    )  # fmt: skip


def _statistics_and_wrappers(
    settings: Mapping[str, Any], options: ReplayOptions, file: str
) -> tuple[str | None, Wrappers | None]:
    """Statistics and wrappers of an SB3 expert, from the user or plain names; raises as `replay_settings`."""
    statistics, wrappers = options.statistics, settings.get("wrappers")
    if statistics is None and (statistics := settings.get("statistics")) not in (None, NONE):
        statistics = str(plain.path(statistics, file, "name it with --expert-statistics"))
    if options.wrappers is not None and options.wrappers != wrappers:
        raise UsageError(f"--expert-wrappers: {file} is with {json.dumps(wrappers):.200}")
    return statistics, None if wrappers is None else check_wrappers(wrappers, f"{file} has wrappers {wrappers!r:.80}")


def _check_settings(settings: Mapping[str, Any], file: str) -> None:
    """Raise GatoError for a number or choice out of range."""
    temperature = settings.get("temperature", 0.0)
    counts = {"n_envs": settings.get("n_envs", 1), "episodes": settings.get("episodes"), "seed": settings.get("seed")}
    wrong = [key for key, count in counts.items() if type(count) is not int or count < 0]
    every = temperature.values() if isinstance(temperature, dict) else [temperature]
    wrong += ["temperature"] * any(type(each) not in (int, float) or not 0 <= each < math.inf for each in every)
    wrong += ["precision"] * (settings.get("precision", "float32") not in get_args(Precision))
    wrong += ["prompt"] * (settings.get("prompt") not in (None, *get_args(Kind)))
    if wrong:
        raise GatoError(
            f"{file} has {wrong[0]} {settings.get(wrong[0])!r:.80}, which no evaluation has: evaluate again"
        )
