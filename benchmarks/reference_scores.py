"""Measure the random and expert scores of the known tasks, and keep them in envs/suites/*.toml.

    python benchmarks/reference_scores.py                          # all tasks, printed only
    python benchmarks/reference_scores.py --write                  # ... and written into the suites
    python benchmarks/reference_scores.py --tasks CartPole-v1 --players expert --expert model.zip

One lane, one episode a seed, from seed 1,000,000 on, as in every evaluation.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

import numpy as np
import tyro

from gato_agent.envs.loop import Actor
from gato_agent.envs.make import make_vector
from gato_agent.envs.random_actor import RandomActor
from gato_agent.envs.task import SUITES, Score, Task, read_suite
from gato_agent.evaluate import episode_returns
from gato_agent.rollouts.experts import load_expert

HEADER = """\
# Data only; every key is explained in envs/task.py. The scores are measured, and this file is written, by
#     python benchmarks/reference_scores.py --write"""


@dataclass
class Config:
    """What to measure."""

    tasks: tuple[str, ...] = ()
    """Environment ids; all known tasks if none is given."""
    players: tuple[Literal["random", "expert"], ...] = ("random", "expert")
    """Whose scores."""
    expert: str = "catalogue"
    """Where the expert comes from, as in `gato-agent collect --expert`."""
    episodes: int = 100
    """Episodes a task and player."""
    seed: int = 1_000_000
    """Seed of the first episode."""
    write: bool = False
    """Put the scores into the suites' files."""


def main(config: Config) -> None:
    """Measure, print and perhaps write, suite by suite."""
    for file in sorted(SUITES.glob("*.toml")):
        tasks = read_suite(file)
        for task in [task for task in tasks.values() if task.id in config.tasks or not config.tasks]:
            for player in config.players:
                score = measure(task, player, config)
                print(f"{task.id:26} {player:6} {score.mean:10.3f} +- {score.std:8.3f}   {score.how}", flush=True)
                known = tasks[task.id]
                tasks[task.id] = replace(known, random=score) if player == "random" else replace(known, expert=score)
        if config.write:
            file.write_text(to_toml(tasks.values()), encoding="utf-8")


def measure(task: Task, player: str, config: Config) -> Score:
    """Play `config.episodes` episodes; mean and (population) standard deviation of their returns."""
    seeds = range(config.seed, config.seed + config.episodes)
    with closing(make_vector(task.id, 1)) as envs:
        packages = ["gymnasium", "numpy", *({"box2d": ["Box2D"]}.get(task.extra or "", []))]
        if player == "random":
            actor: Actor = RandomActor(envs.single_action_space, seed=0)
            how = "uniformly random actions"
        else:
            spaces = envs.single_observation_space, envs.single_action_space
            expert = load_expert(config.expert, task.id, *spaces, envs=envs)
            actor, how = expert, "{kind} {source}, greedy, sha256 {sha256}".format(**expert.provenance)
            packages += ["stable-baselines3", "torch"]
        values = [value for _, value, _ in episode_returns(actor, envs, seeds)]
    mean, std = round(float(np.mean(values)), 3), round(float(np.std(values)), 3)
    versions = {package: version(package) for package in packages}
    return Score(mean, std, config.episodes, (seeds[0], seeds[-1]), how, versions)


def to_toml(tasks: Collection[Task]) -> str:
    """Write a suite as `read_suite` reads it."""
    extras = [f'extra = "{extra}"' for extra in {task.extra for task in tasks if task.extra}]
    return "\n".join([HEADER, *extras, *(line for task in tasks for line in task_lines(task))]) + "\n"


def task_lines(task: Task) -> Iterator[str]:
    """Yield the tables of one task."""
    yield from ("", f'[tasks."{task.id}"]', *([f"horizon = {task.horizon}"] if task.horizon else []))
    for player in ("random", "expert"):
        score: Score | None = getattr(task, player)
        if score is not None:
            versions = ", ".join(f'{package} = "{number}"' for package, number in score.versions.items())
            yield from ("", f'[tasks."{task.id}".{player}]', f"mean = {score.mean}", f"std = {score.std}")
            yield from (
                f"episodes = {score.episodes}",
                f"seeds = {list(score.seeds)}",
                f"how = {json.dumps(score.how)}",
            )
            yield f"versions = {{ {versions} }}"


if __name__ == "__main__":
    main(tyro.cli(Config))
