"""Small agents and episodes that an improvement begins with."""

import json
from pathlib import Path
from typing import Any

from gato_agent.commands.collect import CollectConfig, collect
from gato_agent.commands.train import TrainConfig, train
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores

CARTPOLE = "CartPole-v1"
SMALL = json.dumps({"layers": 1, "heads": 1, "width": 32, "feed_forward": 64, "context": 32})


def collected(out: Path, seed: int = 0, episodes: int = 2, **options: Any) -> EpisodeStore:
    """Store of episodes of one task, by default of random actions in CartPole."""
    options = {"env": (CARTPOLE,), "expert": "random", **options}
    collect(CollectConfig(episodes=episodes, seed=seed, workers=0, out=out, **options))
    (store,) = open_stores(out)
    return store


def trained(out: Path, data: Path, **options: Any) -> Path:
    """Run folder of a very small agent that has hardly learned."""
    options = {"shape": SMALL, "steps": 2, "num_threads": 1, **options}
    train(TrainConfig(data=(data,), out=out, **options))
    return out
