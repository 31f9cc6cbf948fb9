"""Selection of stretches: parts of episodes that brought more than the value of where they began.

    advantage of a stretch = its rewards + value of where it ends - value of where it begins

A long episode has good and bad parts, and its return tells little about each. The value is that of the round's own
episodes; stretches of earlier rounds and of demonstrations are compared with the same bar.
"""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gato_agent.improving.selection import Part, statistics
from gato_agent.improving.value import Value
from gato_agent.rollouts.storage.compression import Encoded
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore


class Stretch(NamedTuple):
    """Part of an episode: place of its store, seed, first step, step after its last, and advantage."""

    store: int
    seed: int
    start: int
    stop: int
    advantage: float


def stretches(stores: Sequence[EpisodeStore], value: Value, length: int) -> list[Stretch]:
    """Split all episodes of some stores into stretches of `length` steps."""
    return [
        Stretch(place, seed, *each)
        for place, store in enumerate(stores) for seed in statistics(store)
        for each in _split(store.read(seed), value, length)
    ]  # fmt: skip


def _split(episode: Episode, value: Value, length: int) -> list[tuple[int, int, float]]:
    """First step, step after the last and advantage of an episode's stretches, whole ones from its end on."""
    values = value(episode.observations)
    if episode.terminated:
        values[-1] = 0.0
    edges = sorted({0, *range(len(episode), 0, -length)})
    rewards = np.add.reduceat(episode.rewards, edges[:-1])
    return [
        (start, stop, float(reward + values[stop] - values[start]))
        for (start, stop), reward in zip(pairwise(edges), rewards, strict=True)
    ]


def joined(candidates: Sequence[Stretch], bar: float) -> list[Part]:
    """Parts to train on: stretches that are not below the bar; those that follow each other are one part."""
    parts = list[Part]()
    for store, seed, start, stop, advantage in sorted(candidates):
        if advantage < bar:
            continue
        if parts and parts[-1][1:] == (store, seed, parts[-1].start, start):
            parts[-1] = parts[-1]._replace(stop=stop)
        else:
            parts.append(Part(len(parts), store, seed, start, stop))
    return parts


def encoded(stores: Sequence[EpisodeStore], part: Part) -> Encoded:
    """Encoded arrays of a part; a whole episode is that of its store, byte for byte."""
    store = stores[part.store]
    return store.encoded(part.seed) if part.stop is None else _cut(store.read(part.seed), part).encode()


def _cut(episode: Episode, part: Part) -> Episode:
    """Part of an episode as an episode of its own, whose seed is the part's number."""
    start, stop = part.start, part.stop
    assert stop is not None
    last = stop == len(episode)
    actions, labels = (
        None if columns is None else {path: column[start:stop] for path, column in columns.items()}
        for columns in (episode.actions, episode.labels)
    )
    assert actions is not None
    return dataclasses.replace(
        episode,
        observations={path: column[start : stop + 1] for path, column in episode.observations.items()},
        actions=actions, labels=labels, rewards=episode.rewards[start:stop], seed=part.number,
        terminated=episode.terminated and last, truncated=episode.truncated or not last,
        provenance={**episode.provenance, "seed": part.seed, "steps": [start, stop]},
    )  # fmt: skip
