"""Selection of whole episodes to clone: the best try of each seed, if it is not below the bar.

Seeds of an environment may differ in difficulty, so an episode is compared with other tries of its own seed first. The
bar is a quantile of the returns of these best tries. It rises with the agent, so that episodes of earlier rounds and
demonstrations that it has surpassed are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gato_agent.rollouts.storage.compression import Encoded
from gato_agent.rollouts.storage.episode import EpisodeStats
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import training_indices

Tries = Sequence[Mapping[int, EpisodeStats]]  # of each try, the episodes by seed
CHUNK = 64  # episodes of a file of the selection


class Candidate(NamedTuple):
    """Episode that may be selected: place of its store, seed and return."""

    store: int
    seed: int
    total: float


class Part(NamedTuple):
    """Episode or part of one to train on.

    Attributes:
        number: in the selection; that of a whole episode is its seed.
        store: place of its store.
        seed: of the episode.
        start: first step.
        stop: step after the last; None for a whole episode.
    """

    number: int
    store: int
    seed: int
    start: int = 0
    stop: int | None = None


def best_tries(tries: Tries, first: int = 0) -> list[Candidate]:
    """Best try of each seed: the first of largest return, a success where the task reports success.

    Args:
        tries: statistics of each try's episodes, by seed.
        first: place of the first try's store.

    Returns:
        Candidates by seed. Seeds without a success are left out where any episode reports success or failure, and
        episodes that end where an expert was lost, which have no return to compare.
    """
    reported = any(stats.success is not None for each in tries for stats in each.values())
    best: list[Candidate] = []
    for seed in sorted({seed for each in tries for seed in each}):
        known = [(number, each[seed]) for number, each in enumerate(tries) if seed in each]
        known = [(number, stats) for number, stats in known if (stats.success or not reported) and not stats.lost]
        if known:
            number, stats = max(known, key=lambda pair: pair[1].total)
            best.append(Candidate(first + number, seed, stats.total))
    return best


def bar_of(values: Sequence[float], quantile: float) -> float:
    """Bar of a round: a quantile of its candidates' returns or advantages, itself one of them."""
    return float(np.quantile(values, quantile, method="lower"))


def all_equal(tries: Tries) -> bool:
    """True if all tries have the same return and success, so that no selection can help."""
    return len({(stats.total, bool(stats.success)) for each in tries for stats in each.values()}) <= 1


def alike(greedy: Mapping[int, EpisodeStats], sampled: Mapping[int, EpisodeStats]) -> bool:
    """True if most episodes of two tries have the same length and return."""
    same = [greedy[seed][:2] == sampled[seed][:2] for seed in greedy.keys() & sampled.keys()]
    return sum(same) > len(same) / 2


def above(candidates: Sequence[Candidate], bar: float) -> list[Part]:
    """Whole episodes to train on: candidates that are not below the bar; of a seed in several stores the best."""
    chosen: dict[int, Candidate] = {}
    for each in candidates:
        if each.total >= bar and (each.seed not in chosen or each.total > chosen[each.seed].total):
            chosen[each.seed] = each
    return [Part(seed, each.store, seed) for seed, each in sorted(chosen.items())]


def statistics(store: EpisodeStore) -> dict[int, EpisodeStats]:
    """Statistics of a store's episodes by seed; those that its filter excludes are left out."""
    return {seed: store.stats(seed) for seed in training_indices(store)}


def copy_selected(target: EpisodeStore, parts: Sequence[Part], read: Callable[[Part], Encoded]) -> None:
    """Copy parts of episodes into a store, except for those that are there.

    Args:
        target: the store, open for writing.
        parts: by increasing number.
        read: reads a part, which has its number for a seed; what it raises is passed on.
    """
    present = set(target.indices())
    missing = [part for part in parts if part.number not in present]
    for start in range(0, len(missing), CHUNK):
        target.commit([read(part) for part in missing[start : start + CHUNK]])
