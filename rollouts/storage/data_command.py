"""`gato-agent data`: statistics, verification, compaction, filter, export and import of folders of episodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import GatoError
from gato_agent.envs.io.console import plain_console
from gato_agent.rollouts.storage.compact import compact
from gato_agent.rollouts.storage.episode import EpisodeStats
from gato_agent.rollouts.storage.episode_store import EpisodeStore, own_folder
from gato_agent.rollouts.storage.exchange_command import Export, Folder, Import, each_task
from gato_agent.rollouts.storage.filter import EpisodeFilter, filtered_indices, write_filter
from gato_agent.rollouts.storage.verify import verify


@dataclass(frozen=True)
class Show:
    """Statistics of every task: episodes, steps, returns, success, noise and size."""

    folder: Folder = Path("data")

    def run(self, console: Console) -> None:
        """Print a row for each task."""
        headings = ("expert", "episodes", "kept", "compacted", "steps", "mean return", "std", "success", "noise", "MB")
        table = Table(
            Column("environment", no_wrap=True), *headings, title=f"episodes in {self.folder}", box=box.SIMPLE
        )
        try:
            each_task(self.folder, console, lambda store: table.add_row(*_statistics(store)))
        finally:
            if table.row_count:
                console.print(table)


@dataclass(frozen=True)
class Verify:
    """Read all episodes and verify their checksums; exit code 1 if any is damaged."""

    folder: Folder = Path("data")

    def run(self, console: Console) -> None:
        """Print a line for each damaged file, and a summary.

        Raises:
            GatoError: a file or an episode is damaged.
        """
        sound, problems = verify(self.folder)
        for problem in problems:
            console.print(problem, highlight=False, markup=False, soft_wrap=True)
        if problems:
            raise GatoError(f"{len(problems)} damaged files or episodes in {self.folder}, named above")
        console.print(f"{sound:,} episodes in {self.folder} are valid", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Compact:
    """Join the episodes of every task into few large files; more may be collected later."""

    folder: Folder = Path("data")

    def run(self, console: Console) -> None:
        """Compact one task after the other and print their sizes; raises GatoError as `each_task`."""

        def work(each: EpisodeStore) -> None:
            before = each.size()
            with EpisodeStore.open(own_folder(self.folder, each)) as store:
                compact(store)
            files, size = len(store.shard_paths()), f"{before / 1e6:.2f} MB, now {store.size() / 1e6:.2f} MB"
            text = f"{store.env_id}: {len(store.indices()):,} episodes in {files} files, {size}"
            console.print(text, highlight=False, soft_wrap=True)

        each_task(self.folder, console, work)


@dataclass(frozen=True)
class Filter:
    """Choose the episodes that training and exporting use; all stay on disk. Without options: all of them."""

    folder: Folder = Path("data")
    above: float | None = None
    """Least share of the expert's return (0.8 in the paper), above 0 to 1. The expert's return is the best mean of a
    tenth of the episodes in a row."""
    success_only: bool = False
    """Only successful episodes, in environments that report success."""

    def run(self, console: Console) -> None:
        """Write the filter of one task after the other; raises GatoError as `each_task`."""
        episode_filter = EpisodeFilter(self.above, self.success_only)
        episode_filter.check()

        def work(each: EpisodeStore) -> None:
            with EpisodeStore.open(own_folder(self.folder, each)) as store:
                write_filter(store, episode_filter)
            text = f"{store.env_id}: {len(filtered_indices(store)):,} of {len(store.indices()):,} episodes are used"
            console.print(text, highlight=False, soft_wrap=True)

        each_task(self.folder, console, work)


DataCommand = (
    Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Compact, tyro.conf.subcommand("compact")]
    | Annotated[Filter, tyro.conf.subcommand("filter")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
)


def data(command: Show | Verify | Compact | Filter | Export | Import) -> None:
    """Run a subcommand; raises GatoError as it does."""
    command.run(plain_console())


def _statistics(store: EpisodeStore) -> list[str]:
    indices = store.indices()
    stats = [store.stats(index) for index in indices]
    returns = np.array([each.total for each in stats if not each.lost])
    mean, std = (f"{returns.mean():.2f}", f"{returns.std():.2f}") if len(returns) else ("-", "-")
    return [
        store.env_id, store.kind, f"{len(stats):,}", f"{len(filtered_indices(store)):,}",
        f"{len(stats) - len(store.pending()):,}", f"{sum(each.steps for each in stats):,}", mean, std,
        _success(stats), _noise(stats), f"{store.size() / 1e6:.2f}",
    ]  # fmt: skip


def _success(stats: list[EpisodeStats]) -> str:
    reported = any(each.success is not None for each in stats)  # some environments report only success
    return f"{np.mean([bool(each.success) for each in stats]):.0%}" if reported else "-"


def _noise(stats: list[EpisodeStats]) -> str:
    """Number of episodes with noise and their levels, such as `13 (0.05-0.3)`."""
    levels = sorted(each.noise for each in stats if each.noise)
    return f"{len(levels)} ({levels[0]:g}-{levels[-1]:g})" if levels else "-"
