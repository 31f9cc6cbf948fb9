"""Measure the random and expert scores of the catalogue, and write them to envs/tasks/suites/*.toml.

    python benchmarks/reference_scores.py                          # all tasks, printed only
    python benchmarks/reference_scores.py --write --workers 2      # ... and written into the suites, task by task
    python benchmarks/reference_scores.py --write --missing        # those without a score; resumes
    python benchmarks/reference_scores.py --suites metaworld --players random
    python benchmarks/reference_scores.py --tasks CartPole-v1 --players expert --expert model.zip

One environment, one episode a seed, from seed 1,000,000 on, as in every evaluation. A family whose episodes end
at success but could go on (Meta-World) is played to the horizon once, and both returns are read from that.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import tyro
from gymnasium.vector import VectorEnv

from gato_agent.envs.files import write_files
from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.random_actor import RandomActor
from gato_agent.envs.spaces.views import View
from gato_agent.envs.tasks.packages import SUITES
from gato_agent.envs.tasks.suite_file import SHARED, TASK, read_suite
from gato_agent.envs.tasks.task import Score, Task, catalogue

HEADER = """\
# Data only; every key is explained in envs/tasks/task.py. The scores are measured, and this file is written, by
#     python benchmarks/reference_scores.py --write"""
PACKAGES = {  # on which a suite's returns depend, besides gymnasium and numpy
    "atari": ["ale-py"],
    "babyai": ["minigrid"],
    "babyai_rgb": ["minigrid"],
    "box2d": ["Box2D"],
    "bullet": ["pybullet", "pybullet-envs-gymnasium"],
    "metaworld": ["metaworld", "mujoco"],
    "minatar": ["MinAtar"],
    "mujoco": ["mujoco"],
    "panda": ["panda-gym", "pybullet"],
    "robotics": ["gymnasium-robotics", "mujoco"],
}
TO_THE_HORIZON = {"metaworld": {"end_at_success": False}}  # arguments with which an episode goes on after success

Player = Literal["random", "expert"]


@dataclass(frozen=True)
class Config:
    """Measure reference scores."""

    tasks: tuple[str, ...] = ()
    """Environment ids; by default the whole catalogue."""
    suites: tuple[str, ...] = ()
    """Suites, by the names of the files in envs/tasks/suites; by default all."""
    players: tuple[Player, ...] = ("random", "expert")
    """Actors to measure."""
    expert: str | None = None
    """Expert, as in `gato-agent collect --expert`; by default the catalogue's."""
    episodes: int = 100
    """Episodes for each task and actor."""
    seed: int = 1_000_000
    """Seed of the first episode."""
    workers: int = 1
    """Processes, each of which measures one task and player at a time."""
    missing: bool = False
    """Skip scores that the catalogue has."""
    horizon: bool = True
    """Continue episodes after success where possible, for the return to the horizon; several times slower."""
    write: bool = False
    """Write each score to its suite's file when it is measured."""


def main(config: Config) -> None:
    """Measure, print and optionally write each score."""
    jobs = [
        (task.id, player)
        for task in catalogue().values()
        for player in config.players
        if (task.id in config.tasks or not config.tasks) and (task.suite in config.suites or not config.suites)
        if not config.missing or getattr(task, player) is None
        if player == "random" or config.expert or task.expert_kind
    ]
    for env_id, player, score in measured(jobs, config):
        success = "" if score.success is None else f"   success {score.success:.2f}"
        print(f"{env_id:36} {player:6} {score.mean:10.3f} +- {score.std:8.3f}{success}   {score.how}", flush=True)
        if config.write:
            file = SUITES / f"{catalogue()[env_id].suite}.toml"
            tasks = read_suite(file)  # anew, since another run may have written to it
            known = tasks[env_id]
            fields = {"random": score} if player == "random" else {"expert": score, "expert_source": made_by(known)}
            tasks[env_id] = replace(known, **fields)
            write_suite(file, tasks.values())


def measured(jobs: list[tuple[str, Player]], config: Config) -> Iterator[tuple[str, Player, Score]]:
    """Yield scores as they complete; a task that fails is printed and skipped."""
    with ProcessPoolExecutor(config.workers, get_context("spawn")) as pool:
        running = {pool.submit(measure, env_id, player, config): (env_id, player) for env_id, player in jobs}
        for job in as_completed(running):
            error = job.exception()
            if error is None:
                yield *running[job], job.result()
            else:
                print(*running[job], f"{type(error).__name__}: {error}", flush=True)


def measure(env_id: str, player: Player, config: Config) -> Score:
    """Play `config.episodes` episodes; mean and (population) standard deviation of their returns."""
    task = catalogue()[env_id]
    seeds = range(config.seed, config.seed + config.episodes)
    kwargs = TO_THE_HORIZON.get(task.suite, {}) if config.horizon else {}
    with closing(make_vector(task.id, 1, env_kwargs=kwargs)) as envs:
        packages = ["gymnasium", "numpy", *PACKAGES.get(task.suite, [])]
        if player == "random":
            actor: Actor = RandomActor(envs.single_action_space, seed=0)
            how = "uniformly random actions"
        else:
            actor, how, more = expert_of(task, config, envs)
            packages += more
        until, full, successes = zip(*play(actor, envs, seeds, task.success), strict=True)
    versions = {package: version(package) for package in packages}
    score = Score(*moments(until if kwargs else full), config.episodes, (seeds[0], seeds[-1]), how, versions)
    if task.success:
        score = replace(score, success=round(float(np.mean(successes)), 3))
    if kwargs:
        mean, std = moments(full)
        score = replace(score, horizon_mean=mean, horizon_std=std)
    return score


def expert_of(task: Task, config: Config, envs: VectorEnv[Any, Any, Any]) -> tuple[Actor, str, list[str]]:
    """Expert of a task, its description, and the packages on which its actions depend."""
    from gato_agent.rollouts.experts.load import load_expert

    spec = config.expert or task.expert_kind or "catalogue"
    expert = load_expert(spec, task.id, envs.single_observation_space, envs.single_action_space, envs=envs)
    how = "{kind} {source}, greedy, sha256 {sha256}".format(**expert.provenance)
    if expert.provenance["kind"] in ("scripted", "planned"):  # its actions come from the suite's own package
        return expert, how, []
    import torch

    torch.set_num_threads(1)
    return expert, how, ["stable-baselines3", "torch"]


def made_by(task: Task) -> str | None:
    """Source of a shipped expert from its file, else from the catalogue."""
    from gato_agent.rollouts.experts.load import SHIPPED
    from gato_agent.rollouts.experts.sb3.policy import Policy

    path = SHIPPED / f"{quote(task.id, safe='')}.safetensors"
    if task.expert_kind != "catalogue" or not path.is_file():
        return task.expert_source
    notes = Policy.from_file(path).notes
    return "{algo}, {source}, {licence}".format(**notes)


def play(
    actor: Actor, envs: VectorEnv[Any, Any, Any], seeds: Iterable[int], success: str | None
) -> Iterator[tuple[float, float, bool]]:
    """Yield of each episode: return until its first success, return until its end, and whether there was success."""
    until = total = 0.0
    reached = False
    for step in steps(actor, envs, seeds):
        total += step.reward
        if not reached:
            until = total
            reached = success is not None and bool(step.info.get(success, False))
        if step.done:
            yield until, total, reached
            until, total, reached = 0.0, 0.0, False


def moments(values: Iterable[float]) -> tuple[float, float]:
    """Mean and (population) standard deviation, to three digits."""
    sample = np.array(list(values))
    return round(float(sample.mean()), 3), round(float(sample.std()), 3)


def write_suite(file: Path, tasks: Collection[Task]) -> None:
    """Write a suite's file, with values shared by all its tasks at the top."""
    text = to_toml(tasks)
    write_files({file: text.encode()})


def to_toml(tasks: Collection[Task]) -> str:
    """TOML text of a suite's file."""
    first = next(iter(tasks))
    shared = [key for key in SHARED if len({getattr(task, key) for task in tasks}) == 1]
    lines = [HEADER, *entries(first, ["extra", *shared])]
    for task in tasks:
        lines += ["", f"[tasks.{json.dumps(task.id)}]", *entries(task, [key for key in TASK if key not in shared])]
        for player in ("random", "expert"):
            if score := getattr(task, player):
                known = {key: value for key, value in vars_of(score).items() if value is not None}
                lines.append(f"{player} = {to_value(known)}")
    return "\n".join(lines) + "\n"


def entries(task: Task, keys: Iterable[str]) -> Iterator[str]:
    """Yield a TOML line for each key that the task has a value of."""
    for key in keys:
        value = getattr(task, key)
        value = value.to_json() if isinstance(value, View) else value
        if value:
            yield f"{key} = {to_value(value)}"


def vars_of(score: Score) -> dict[str, Any]:
    """Fields of a score."""
    return {name: getattr(score, name) for name in Score.__dataclass_fields__}


def to_value(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{to_key(key)} = {to_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_value, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


def to_key(key: str) -> str:
    """A key in TOML, bare where it can be."""
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else json.dumps(key)


if __name__ == "__main__":
    main(tyro.cli(Config))
