"""Choice of what a round trains on: whole episodes, or stretches of episodes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gato_agent.envs.errors import UsageError
from gato_agent.envs.spaces.flatten import space_from_json
from gato_agent.improving.selection import Candidate, Part, above, bar_of, best_tries, statistics
from gato_agent.improving.stretches import joined, stretches
from gato_agent.improving.value import fit_value, number_paths
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore

STRETCH = 12  # steps of a stretch by default
EPISODE_BAR, STRETCH_BAR = 0.25, 0.8  # quantiles by default

Groups = Sequence[Sequence[EpisodeStore]]  # each store of demonstrations alone, then the tries of each round


class Choice(NamedTuple):
    """Parts of episodes to train on, the stores that they are in, and the bar that they have reached."""

    stores: list[EpisodeStore]
    parts: list[Part]
    bar: float
    kind: str


def choose(groups: Groups, length: int | None, quantile: float | None) -> Choice | None:
    """Choose what reaches the bar that the latest round sets.

    Args:
        groups: stores of all episodes so far; the last are the latest round's.
        length: steps of a stretch, 0 for whole episodes; None to decide by the task.
        quantile: bar, as a quantile of the latest round's candidates; None for the default.

    Returns:
        The choice; None if only successes count, and the latest round has none.

    Raises:
        UsageError: stretches of a task whose observations have no numbers.
    """
    header = groups[-1][0].header
    paths = number_paths(space_from_json(header["observation_space"]))
    if length is None:
        reported = any(stats.success is not None for group in groups for store in group
                       for stats in statistics(store).values())  # fmt: skip
        length = 0 if reported or not paths else STRETCH
    if not length:
        return _episodes(groups, EPISODE_BAR if quantile is None else quantile)
    if not paths:
        raise UsageError(
            f"--stretch {length}: observations of {header['env_id']} have no numbers beside images and text, from "
            "which the value of a stretch is learned: use --stretch 0 with another --out"
        )
    return _stretches(groups, STRETCH_BAR if quantile is None else quantile, length, paths)


def _episodes(groups: Groups, quantile: float) -> Choice | None:
    own = best_tries([statistics(store) for store in groups[-1]])
    if not own:
        return None
    bar = bar_of([each.total for each in own], quantile)
    stores, candidates = list[EpisodeStore](), list[Candidate]()
    for group in groups:
        candidates += best_tries([statistics(store) for store in group], len(stores))
        stores += group
    return Choice(stores, above(candidates, bar), bar, "episodes with a return")


def _stretches(groups: Groups, quantile: float, length: int, paths: Sequence[str]) -> Choice:
    def own() -> Iterator[Episode]:
        return (store.read(seed) for store in groups[-1] for seed in statistics(store))

    stores = [store for group in groups for store in group]
    first = len(stores) - len(groups[-1])
    candidates = stretches(stores, fit_value(own, paths), length)
    bar = bar_of([each.advantage for each in candidates if each.store >= first], quantile)
    return Choice(stores, joined(candidates, bar), bar, "stretches with an advantage")
