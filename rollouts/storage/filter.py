"""Which episodes are worth learning from: the paper's filter. It marks, and deletes nothing.

    data/CartPole-v1/keep.json    {"keep_above": 0.8, "success_only": false}

`collect` writes the rule; training and exporting apply it to all episodes that are there by then.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import read_own
from gato_agent.envs.io.strict_json import checked_digest, record, with_digest
from gato_agent.envs.tasks.task import find
from gato_agent.rollouts.storage.episode import EpisodeStats
from gato_agent.rollouts.storage.episode_store import EpisodeStore

FILE = "keep.json"


@dataclass(frozen=True)
class EpisodeFilter:
    """Keep episodes with at least this share of the expert's return, or those that succeeded, or both.

    The expert's return E is the largest mean over W episodes in a row, in the order of seeds, W = min(1000, 0.1 N) of
    the N that there are. The bound is E - (1 - keep_above) * |E|, which is keep_above * E where E is positive.
    """

    keep_above: float | None = None
    success_only: bool = False

    def check(self) -> None:
        """Raise UsageError for a share that cannot be."""
        if self.keep_above is not None and not 0 < self.keep_above <= 1:
            raise UsageError(f"--keep-above {self.keep_above}: it must be above 0, and at most 1")

    def apply(self, stats: Sequence[EpisodeStats]) -> list[bool]:
        """Say of each episode, in the order of seeds, whether it is kept.

        Where no episode reports success, success tells nothing, and all of them pass that half of the rule.
        """
        returns = np.array([each.total for each in stats])
        kept = np.ones(len(returns), np.bool_)
        if self.keep_above is not None and len(returns):
            expert = expert_return(returns)
            kept &= returns >= expert - (1 - self.keep_above) * abs(expert)
        if self.success_only and any(each.success is not None for each in stats):
            kept &= np.array([bool(each.success) for each in stats])
        return [bool(keep) for keep in kept]


def expert_return(returns: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Largest mean return over W = min(1000, 0.1 N) episodes in a row, at least one."""
    window = max(1, min(1000, len(returns) // 10))
    return float(np.lib.stride_tricks.sliding_window_view(returns, window).mean(axis=1).max())


def read_filter(folder: Path) -> EpisodeFilter:
    """The rule of a task's folder; one that keeps everything, where there is none.

    Raises:
        GatoError: it is damaged.
    """
    path = folder / FILE
    try:
        rule = record(EpisodeFilter, checked_digest(read_own(path)))
        rule.check()
    except FileNotFoundError:
        return EpisodeFilter()
    except (ValueError, UsageError) as error:
        raise GatoError(f"{path} is damaged ({error}): delete it, or collect again with --keep-above") from error
    return rule


def write_filter(store: EpisodeStore, rule: EpisodeFilter) -> None:
    """Set the rule of a task's folder."""
    store.write({store.folder / FILE: with_digest(asdict(rule))})


def kept(store: EpisodeStore) -> list[int]:
    """Numbers of the episodes that the folder's rule keeps, ascending."""
    indices = store.indices()
    rule = read_filter(store.folder)
    if rule == EpisodeFilter():
        return indices
    stats = [store.stats(index) for index in indices]
    task = find(store.env_id)
    if task is not None and task.by_success:  # the longer the way to success, the larger the return
        stats = [each._replace(total=float(each.success or False)) for each in stats]
    keeps = rule.apply(stats)
    return [index for index, keep in zip(indices, keeps, strict=True) if keep]


def selected(store: EpisodeStore) -> list[int]:
    """Numbers of the episodes to learn from; raises UsageError if the rule keeps none of those that there are."""
    found = kept(store)
    if not found and store.indices():
        raise UsageError(f"{store.folder / FILE} keeps none of its episodes: delete it to use them all")
    return found
