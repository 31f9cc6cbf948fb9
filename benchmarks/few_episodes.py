"""Learning curve over the number of episodes: training from scratch against fine-tuning, over several seeds.

    PYTHONPATH=examples python benchmarks/few_episodes.py --env docking:Docking-v0 --expert docking.zip --out runs/few

Writes OUT/curve.json after each training, from which the same command resumes, and OUT/curve.svg at the end.
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

Curves = dict[str, dict[str, list[float]]]  # start -> episodes -> mean return of each seed


@dataclass(frozen=True)
class Config:
    """Train on data sets of several sizes."""

    env: str
    """Environment id; module:Env-v0 imports the module first."""
    expert: str = "catalogue"
    """Expert, as for `gato-agent collect`."""
    init: str = "shipped"
    """Checkpoint to fine-tune, or `shipped`."""
    episodes: tuple[int, ...] = (2, 5, 10, 20, 50)
    """Data set sizes in episodes."""
    seeds: int = 3
    """Number of seeds, each with its own episodes."""
    steps: int = 200
    """Optimizer steps of a training."""
    played: int = 50
    """Episodes of an evaluation."""
    out: Path = Path("runs/few")
    """Folder for data, runs and the curve."""


def main(config: Config) -> None:
    """Train and evaluate the missing agents, then plot the curve."""
    path = config.out / "curve.json"
    curves: Curves = json.loads(path.read_text()) if path.exists() else {}
    for seed in range(config.seeds):
        for count in config.episodes:
            for start in ("from nothing", "fine-tuned"):
                returns = curves.setdefault(start, {}).setdefault(str(count), [])
                if len(returns) == seed:
                    returns.append(score(config, start, count, seed))
                    write_files({path: json.dumps(curves, indent=1).encode()})
    draw(curves, config)


def score(config: Config, start: str, count: int, seed: int) -> float:
    """Mean return of an agent trained on `count` episodes."""
    data, run = config.out / f"data-{count}-{seed}", config.out / f"{start.replace(' ', '-')}-{count}-{seed}"
    collect(CollectConfig(
        env=(config.env,), expert=config.expert, episodes=count, seed=10_000 * seed, noise=True, workers=0, out=data
    ))  # fmt: skip
    options: dict[str, Any] = {"data": (data,), "out": run, "steps": config.steps, "seed": seed}
    options["resume"] = (run / "config.json").exists()
    train(fine_tuning(config.init, **options) if start == "fine-tuned" else TrainConfig(**options))
    results = evaluate(EvaluateConfig(env=(config.env,), checkpoint=str(run), episodes=config.played))
    return results.tasks[config.env].mean


def draw(curves: Curves, config: Config) -> None:
    """Plot means and ranges over seeds against the number of episodes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for start, curve in curves.items():
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
