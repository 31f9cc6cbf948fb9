"""How many episodes does a new environment take, from nothing and from a checkpoint? A curve of three seeds.

    PYTHONPATH=examples python benchmarks/few_episodes.py --env docking:Docking-v0 --expert docking.zip --out runs/few

Writes OUT/curve.json after each training, so that it goes on where it was, and draws OUT/curve.svg in the end.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.train import TrainConfig, fine_tuning, train
from gato_agent.envs.files import write_files
from gato_agent.envs.make import find_spec
from gato_agent.rollouts.collection.collect import CollectConfig, collect

Figures = dict[str, dict[str, list[float]]]  # start -> episodes -> mean return of each seed


@dataclass(frozen=True)
class Config:
    """What to learn, from how much."""

    env: str
    """Environment id; module:Env-v0 imports the module first."""
    expert: str = "catalogue"
    """As for `gato-agent collect`."""
    init: str = "shipped"
    """What to fine-tune: a checkpoint, or the shipped weights."""
    episodes: tuple[int, ...] = (2, 5, 10, 20, 50)
    """Sizes of the data set."""
    seeds: int = 3
    """Trainings of each, each on other episodes."""
    steps: int = 200
    """Optimizer steps, the same for both."""
    played: int = 50
    """Episodes that measure a return."""
    out: Path = Path("runs/few")
    """Folder for data, runs and the curve."""


def main(config: Config) -> None:
    """Train and play all that is missing, then draw."""
    path = config.out / "curve.json"
    found: Figures = json.loads(path.read_text()) if path.exists() else {}
    for seed in range(config.seeds):
        for count in config.episodes:
            for start in ("from nothing", "fine-tuned"):
                returns = found.setdefault(start, {}).setdefault(str(count), [])
                if len(returns) == seed:
                    returns.append(score(config, start, count, seed))
                    write_files({path: json.dumps(found, indent=1).encode()})
    draw(found, config)


def score(config: Config, start: str, count: int, seed: int) -> float:
    """Mean return of an agent that learned from so many episodes."""
    data, run = config.out / f"data-{count}-{seed}", config.out / f"{start.replace(' ', '-')}-{count}-{seed}"
    collect(CollectConfig(
        env=(config.env,), expert=config.expert, episodes=count, seed=10_000 * seed, noise=True, workers=0, out=data
    ))  # fmt: skip
    given: dict[str, Any] = {"data": (data,), "out": run, "steps": config.steps, "seed": seed}
    given["resume"] = (run / "config.json").exists()
    train(fine_tuning(config.init, **given) if start == "fine-tuned" else TrainConfig(**given))
    results = evaluate(EvaluateConfig(env=(config.env,), checkpoint=str(run), episodes=config.played))
    return results.tasks[config.env].mean


def draw(found: Figures, config: Config) -> None:
    """Means over seeds, and the range of the seeds, against the number of episodes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for start, curve in found.items():
        counts = [int(count) for count in curve]
        means = [np.mean(returns) for returns in curve.values()]
        axes.plot(counts, means, marker="o", label=start)
        low, high = ([pick(returns) for returns in curve.values()] for pick in (min, max))
        axes.fill_between(counts, low, high, alpha=0.2)
    axes.set(xscale="log", xlabel="episodes", ylabel="mean return", title=find_spec(config.env).id)
    axes.set_xticks(list(config.episodes), labels=[str(count) for count in config.episodes])
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg")
    write_files({config.out / "curve.svg": drawn.getvalue()})


if __name__ == "__main__":
    main(tyro.cli(Config))
