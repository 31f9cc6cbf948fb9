"""Identity tasks: for each kind of space, a model learns to act as it observes.

    OMP_NUM_THREADS=1 python benchmarks/identity.py

Each trains one `nano` from end to end: episodes of a scripted expert, training, and play on unseen seeds.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs.loop import steps
from gato_agent.envs.spaces.flatten import leaves, stack
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.rollouts.collection.collect import CollectConfig, collect

SPACES: dict[str, Space[Any]] = {
    "discrete": Discrete(8, start=-2),
    "multidiscrete": MultiDiscrete([3, 4, 5]),
    "multibinary": MultiBinary(5),
    "box": Box(-1, 1, (2,)),
    "unbounded": Box(-np.inf, np.inf, (2,)),
    "integers": Box(-4, 5, (2,), np.int64),
    "dict": Dict({"d": Discrete(4), "x": Box(-1, 1, (1,))}),
    "tuple": Tuple((Discrete(3), MultiBinary(2), Box(0, 4, (1,)))),
    "nested": Dict({"a": Tuple((Discrete(3), Dict({"b": MultiDiscrete([2, 3])}))), "c": Discrete(2)}),
    "text": Text(4, min_length=1, charset="abc"),
    "image": Discrete(4),  # seen as an image
}
LENGTH = 20
MODULE = "identity" if __name__ == "__main__" else __name__  # where the names below can be imported from


class Mirror(gym.Env[Any, Any]):
    """Environment whose observation is the right action, or for `image` an image whose bright quarter encodes it."""

    def __init__(self, name: str) -> None:
        self.image = name == "image"
        self.action_space = SPACES[name]
        self.observation_space = Box(0, 255, (32, 32, 3), np.uint8) if self.image else SPACES[name]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of 20 steps."""
        super().reset(seed=seed)
        self.action_space.seed(int(self.np_random.integers(2**31)))
        self.t = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Show the next element."""
        self.t += 1
        return self._show(), 0.0, False, self.t >= LENGTH, {}

    def _show(self) -> Any:
        right = self.action_space.sample()
        if not self.image:
            return right
        shown = self.np_random.integers(0, 100, (32, 32, 3), dtype=np.uint8)
        y, x = divmod(int(right), 2)
        shown[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] += 120
        return shown


def right(observation: Any) -> Any:
    """Right action of an observation."""
    if isinstance(observation, np.ndarray) and observation.dtype == np.uint8 and observation.ndim == 3:
        return int(observation.reshape(2, 16, 2, 16, 3).mean((1, 3, 4)).argmax())
    return observation


class Expert:
    """Expert that returns the right action."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.spaces = observation_space, action_space

    def reset(self, num_envs: int) -> None:
        """Do nothing: the expert has no state."""

    def act(self, observation: Any, start: Any) -> Any:
        """Right actions of a batch."""
        if not (isinstance(observation, np.ndarray) and observation.ndim == 4):
            return observation
        return np.array([right(image) for image in observation])


@dataclass(frozen=True)
class Config:
    """Train and play identity tasks."""

    space: tuple[str, ...] = tuple(SPACES)
    """Spaces to learn."""
    episodes: int = 200
    """Training episodes of 20 steps."""
    steps: int = 300
    """Optimizer steps, of one sequence of twice the context length."""
    shape: str = "{}"
    """Model config fields to change, as JSON: {"context": 128} suffices here and is faster with images."""
    learning_rate: float = 3e-3
    """Peak learning rate."""


@dataclass(frozen=True)
class Learned:
    """Result of one space."""

    space: str
    exact: float | None
    """Share of the discrete values that are right; None where there are none."""
    error: float | None
    """Mean distance of continuous values, as a share of their range (of 1 where they have none)."""
    wall: float
    """Wall time in seconds, of collection, training and play."""
    cpu: float
    """CPU time in seconds, of the same."""

    @property
    def solved(self) -> bool:
        """True if at least 95% of discrete values are exact and the mean continuous error is at most 2%."""
        return (self.exact is None or self.exact >= 0.95) and (self.error is None or self.error <= 0.02)


def learn(name: str, config: Config, folder: Path) -> Learned:
    """Collect, train and play one space."""
    wall, cpu = time.perf_counter(), time.process_time()
    with registered(name) as env_id:
        collect(
            CollectConfig(
                env=(env_id,), expert=f"{MODULE}:Expert", episodes=config.episodes, workers=0, out=folder / "data"
            )
        )
        trained = train(TrainConfig(
            data=(folder / "data",), out=folder / "run", steps=config.steps, batch_size=1, warmup=20,
            learning_rate=config.learning_rate, save_every=config.steps, shape=config.shape, num_threads=1,
            device="cpu",
        ))  # fmt: skip
        exact, error = play(Checkpoint.load(trained), env_id)
    return Learned(name, exact, error, time.perf_counter() - wall, time.process_time() - cpu)


@contextmanager
def registered(name: str) -> Iterator[str]:
    """Context in which a space's environment is registered; yields its id."""
    env_id = f"Mirror-{name}-v0"
    gym.register(env_id, f"{MODULE}:Mirror", kwargs={"name": name})
    try:
        yield env_id
    finally:
        del gym.registry[env_id]


def play(checkpoint: Checkpoint, env_id: str) -> tuple[float | None, float | None]:
    """Share of discrete values that are right, and the mean error of continuous ones, over ten unseen episodes."""
    with make_agent_and_envs(checkpoint, env_id, 10) as (agent, envs):
        taken = list(steps(agent, envs, range(1_000_000, 1_000_010)))
    space = agent.task.action_space
    chosen, wanted = (stack(space, each) for each in zip(*((s.action, right(s.obs)) for s in taken), strict=True))
    exact: list[Any] = []
    errors: list[Any] = []
    for path, leaf in leaves(space):
        if isinstance(leaf, Box) and leaf.dtype.kind == "f":
            span = np.where(leaf.bounded_below & leaf.bounded_above, leaf.high - leaf.low, 1.0)
            errors += (np.abs(chosen[path] - wanted[path]) / span).ravel().tolist()
        else:
            exact += np.equal(chosen[path], wanted[path]).ravel().tolist()
    return (float(np.mean(exact)) if exact else None), (float(np.mean(errors)) if errors else None)


def main(config: Config) -> None:
    """Print a line for each space."""
    console = Console(soft_wrap=True, markup=False, highlight=False)
    for name in config.space:
        with TemporaryDirectory() as folder:
            learned = learn(name, config, Path(folder))
        exact = "-" if learned.exact is None else f"{learned.exact:.1%}"
        error = "-" if learned.error is None else f"{learned.error:.2%}"
        verdict = "solved" if learned.solved else "NOT solved"
        console.print(f"{name}: {verdict}, exact {exact}, error {error}, {learned.wall:.0f} s, {learned.cpu:.0f} CPU-s")


if __name__ == "__main__":
    main(tyro.cli(Config))
