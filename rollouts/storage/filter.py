"""Filter of training episodes by return and success, as in the paper; no episode is deleted.

    data/CartPole-v1/keep.json    {"keep_above": 0.8, "success_only": false}

`gato-agent data filter` writes the file; training and exporting apply it to all episodes of the folder.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import read_own
from gato_agent.envs.io.strict_json import checked_digest, record, with_digest
from gato_agent.envs.suggested_commands import suggest
from gato_agent.envs.tasks.task import find
from gato_agent.rollouts.storage.episode import EpisodeStats
from gato_agent.rollouts.storage.episode_store import EpisodeStore

FILE = "keep.json"


@dataclass(frozen=True)
class EpisodeFilter:
    """Filter of episodes by share of the expert's return, by success, or by both.

    The expert's return E is the largest mean over W consecutive episodes in the order of seeds, W = min(1000, 0.1 N) of
    N episodes. The least return is E - (1 - keep_above) * |E|, which is keep_above * E for a positive E. Episodes that
    end where the expert was lost have no return to compare: `keep_above` leaves them out.

    Attributes:
        keep_above: share of the expert's return, above 0 to 1; None for no limit.
        success_only: true to select successful episodes only.
    """

    keep_above: float | None = None
    success_only: bool = False

    def check(self) -> None:
        """Raise UsageError for an invalid share."""
        if self.keep_above is not None and not 0 < self.keep_above <= 1:
            raise UsageError(f"--above {self.keep_above}: it must be above 0, and at most 1")

    def apply(self, stats: Sequence[EpisodeStats]) -> list[bool]:
        """Mask of the selected episodes, in the order of seeds.

        If no episode reports success, `success_only` has no effect.
        """
        returns = np.array([each.total for each in stats])
        mask = np.ones(len(returns), np.bool_)
        if self.keep_above is not None:
            mask = ~np.array([each.lost for each in stats], np.bool_)
            expert = expert_return(returns[mask]) if mask.any() else 0.0
            mask &= returns >= expert - (1 - self.keep_above) * abs(expert)
        if self.success_only and any(each.success is not None for each in stats):
            mask &= np.array([bool(each.success) for each in stats])
        return [bool(each) for each in mask]


def expert_return(returns: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Largest mean return over W = min(1000, 0.1 N) consecutive episodes, at least one."""
    window = max(1, min(1000, len(returns) // 10))
    return float(np.lib.stride_tricks.sliding_window_view(returns, window).mean(axis=1).max())


def read_filter(folder: Path) -> EpisodeFilter:
    """Read the filter of a task's folder; without a file, one that selects all episodes.

    Raises:
        GatoError: the file is damaged.
    """
    path = folder / FILE
    try:
        episode_filter = record(EpisodeFilter, checked_digest(read_own(path)))
        episode_filter.check()
    except FileNotFoundError:
        return EpisodeFilter()
    except (ValueError, UsageError) as error:
        command = suggest("filter", folder=folder)
        raise GatoError(f"{path} is damaged ({error}): delete it, or write it again with `{command}`") from error
    return episode_filter


def write_filter(store: EpisodeStore, episode_filter: EpisodeFilter) -> None:
    """Write the filter of a task's folder; one that selects all episodes is no file."""
    if episode_filter == EpisodeFilter():
        (store.folder / FILE).unlink(missing_ok=True)
        return
    store.write({store.folder / FILE: with_digest(asdict(episode_filter))})


def filtered_indices(store: EpisodeStore) -> list[int]:
    """Indices of the episodes that pass the folder's filter, ascending."""
    indices = store.indices()
    episode_filter = read_filter(store.folder)
    if episode_filter == EpisodeFilter():
        return indices
    stats = [store.stats(index) for index in indices]
    task = find(store.env_id)
    if task is not None and task.by_success:  # a later success may have a larger return
        stats = [each._replace(total=float(each.success or False)) for each in stats]
    mask = episode_filter.apply(stats)
    return [index for index, selected in zip(indices, mask, strict=True) if selected]


def training_indices(store: EpisodeStore) -> list[int]:
    """Indices of the episodes to train on; raises UsageError if none of a folder's episodes passes the filter."""
    indices = filtered_indices(store)
    if not indices and store.indices():
        raise UsageError(f"{store.folder / FILE} selects none of its episodes: delete it to use all of them")
    return indices
