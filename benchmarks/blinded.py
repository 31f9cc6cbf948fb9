"""Return of an expert with elements of its observation set to 0, to find those that a view may leave out.

python benchmarks/blinded.py --env Humanoid-v5 --blind 270-299 306-317 324-347
python benchmarks/blinded.py --env HumanoidStandup-v5 --blind 270-347
"""

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from gato_agent.envs.loop import Actor, steps
from gato_agent.envs.make import make_vector
from gato_agent.evaluation.metrics import FIRST_SEED
from gato_agent.rollouts.experts.load import load_expert


@dataclass(frozen=True)
class Config:
    """Mask observations of an expert."""

    env: str
    """Environment whose observation is one Box."""
    blind: tuple[str, ...]
    """Ranges of flat element indices, FIRST-LAST, both included."""
    episodes: int = 12
    """Episodes with and without the mask."""


class Blinded:
    """Actor wrapper that sets some elements of the observation to 0."""

    def __init__(self, actor: Actor, hidden: NDArray[np.bool_]) -> None:
        self._actor, self._hidden = actor, hidden

    def reset(self, num_envs: int = 1) -> None:
        """Reset the actor."""
        self._actor.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Action of the actor for the masked observation."""
        return self._actor.act(np.where(self._hidden, 0, observation).astype(observation.dtype), start)


def main(config: Config) -> None:
    """Print the mean return of the expert with and without the mask."""
    torch.set_num_threads(1)
    with closing(make_vector(config.env, 1)) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        hidden = np.zeros(spaces[0].shape or (), dtype=np.bool_)
        for ends in config.blind:
            first, last = map(int, ends.split("-"))
            hidden.reshape(-1)[first : last + 1] = True
        expert = load_expert("catalogue", config.env, *spaces, 0, envs=envs)
        actors: dict[str, Actor] = {"as it is": expert, "blinded": Blinded(expert, hidden)}
        for name, actor in actors.items():
            total: dict[int, float] = defaultdict(float)
            for step in steps(actor, envs, range(FIRST_SEED, FIRST_SEED + config.episodes)):
                total[step.seed] += step.reward
            returns = list(total.values())
            print(f"{config.env} {name}: {np.mean(returns):,.0f} +- {np.std(returns):,.0f} ({len(returns)} episodes)")


if __name__ == "__main__":
    main(tyro.cli(Config))
