"""A few steps of a task with random actions, for tests of the catalogue in this and other processes."""

from contextlib import closing
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from gymnasium.spaces import Space

from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.random_actor import RandomActor
from gato_agent.envs.spaces.flatten import Columns, stack

SEEDS, STEPS = (0, 1), 12


class Played(NamedTuple):
    """Observations, actions, rewards and end flags by seed, and their spaces."""

    observation_space: Space[Any]
    action_space: Space[Any]
    observations: dict[int, Columns]
    actions: dict[int, Columns]
    rest: dict[int, list[tuple[float, bool, bool]]]

    def digest(self, seed: int) -> str:
        """SHA-256 of one episode."""
        sha = sha256(repr(self.rest[seed]).encode())
        for columns in (self.observations[seed], self.actions[seed]):
            for path, column in columns.items():
                data = column.tobytes() if column.dtype != object else repr(column.tolist()).encode()
                sha.update(path.encode() + data)
        return sha.hexdigest()


def played(env_id: str, seeds: tuple[int, ...] = SEEDS, length: int = STEPS) -> Played:
    """Play at most `length` steps of each seed, in the order of `seeds`, in one environment."""
    return _played(env_id, seeds, length)


@cache
def _played(env_id: str, seeds: tuple[int, ...], length: int) -> Played:
    with closing(make_vector(env_id, 1)) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
        result = Played(*spaces, {}, {}, {})
        for seed in seeds:
            taken = []
            for step in steps(RandomActor(spaces[1], seed), envs, [seed]):
                taken.append(step)
                if len(taken) == length:
                    break
            result.observations[seed] = stack(spaces[0], [step.obs for step in taken] + [taken[-1].next_obs])
            result.actions[seed] = stack(spaces[1], [step.action for step in taken])
            result.rest[seed] = [(step.reward, step.terminated, step.truncated) for step in taken]
    return result


def digests(env_id: str, seeds: tuple[int, ...] = SEEDS, length: int = STEPS) -> list[str]:
    """Digests in ascending order of seeds; the episodes are played in the order of `seeds`."""
    result = played(env_id, seeds, length)
    return [result.digest(seed) for seed in sorted(seeds)]
