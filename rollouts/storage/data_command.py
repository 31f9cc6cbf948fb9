"""`gato-agent data`: what is in a folder of episodes, whether it is sound, and the way out of it and into it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import GatoError, reason
from gato_agent.envs.io.console import plain_console
from gato_agent.rollouts.storage.compact import compact
from gato_agent.rollouts.storage.episode import EpisodeStats
from gato_agent.rollouts.storage.episode_store import EpisodeStore, own_folder, task_folders
from gato_agent.rollouts.storage.filter import kept
from gato_agent.rollouts.storage.verify import verify

Folder = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Show:
    """Statistics of every task: episodes, steps, returns, success, noise and size."""

    folder: Folder = Path("data")
    """What `gato-agent collect --out` wrote, or the folder of one task in it."""

    def run(self, console: Console) -> None:
        """Print a row for each task."""
        headings = ("expert", "episodes", "kept", "sealed", "steps", "mean return", "std", "success", "noise", "MB")
        table = Table(
            Column("environment", no_wrap=True), *headings, title=f"episodes in {self.folder}", box=box.SIMPLE
        )
        try:
            each_task(self.folder, console, lambda store: table.add_row(*_statistics(store)))
        finally:
            console.print(table)


@dataclass(frozen=True)
class Verify:
    """Read everything and compare it with its checksums; exit code 1 if anything is damaged."""

    folder: Folder = Path("data")
    """What `gato-agent collect --out` wrote, or the folder of one task in it."""

    def run(self, console: Console) -> None:
        """Print a line for each damaged file, and a summary.

        Raises:
            GatoError: something is damaged.
        """
        sound, problems = verify(self.folder)
        for problem in problems:
            console.print(problem, highlight=False, markup=False, soft_wrap=True)
        if problems:
            raise GatoError(f"{len(problems)} damaged files or episodes in {self.folder}, named above")
        console.print(f"{sound:,} episodes in {self.folder} are sound", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Compact:
    """Pack the episodes of every task into few large files; more may be collected later."""

    folder: Folder = Path("data")
    """What `gato-agent collect --out` wrote, or the folder of one task in it."""

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
class Export:
    """Write every task as a Minari data set, which `minari.load_dataset` opens; images stay as they are."""

    folder: Folder = Path("data")
    """What `gato-agent collect --out` wrote, or the folder of one task in it."""
    out: Path | None = None
    """Where Minari looks for data sets; by default $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    namespace: str = "gato"
    """First part of the data sets' ids, such as gato/CartPole-v1/catalogue-v0."""
    author: str = "gato-agent"
    """Author named in the metadata."""
    author_email: str | None = None
    """Address of the author."""
    code_permalink: str | None = None
    """Where the code that made the data is."""

    def run(self, console: Console) -> None:
        """Export one task after the other and print the ids; raises GatoError as `each_task`."""
        from gato_agent.rollouts.storage.minari_export import export
        from gato_agent.rollouts.storage.minari_import import load_minari

        load_minari()  # without it no task can be exported

        def work(store: EpisodeStore) -> None:
            own_folder(self.folder, store)  # what others put behind a link is not given away
            about = {"author": self.author, "author_email": self.author_email, "code_permalink": self.code_permalink}
            dataset_id, count = export(store, self.namespace, self.out, about)
            text = f"{store.env_id}: {count:,} episodes exported as {dataset_id}"
            console.print(text, highlight=False, soft_wrap=True)

        each_task(self.folder, console, work)


@dataclass(frozen=True)
class Import:
    """Take the arrays of a Minari data set and its environment's id; no code in it is run."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of a Minari data set, or the id of a public one, such as D4RL/door/human-v2, which is downloaded."""
    out: Path = Path("data")
    """Folder for the episodes, one folder per environment inside it."""
    env: str | None = None
    """The environment's id, where the data set does not say it."""
    clip_actions: bool = False
    """Clip actions beyond their bounds, instead of leaving their episodes out."""

    def run(self, console: Console) -> None:
        """Import and compact."""
        from gato_agent.rollouts.storage.minari_import import import_

        left_out: list[str] = []
        with import_(self.source, self.out, self.env, clip_actions=self.clip_actions, say=left_out.append) as store:
            compact(store)
        for line in left_out:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        but = f", and {len(left_out):,} are left out" if left_out else ""
        text = f"{store.env_id}: {len(store.indices()):,} episodes of {self.source} are in {store.folder}{but}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


DataCommand = (
    Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Compact, tyro.conf.subcommand("seal")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
)


def data(command: Show | Verify | Compact | Export | Import) -> None:
    """Do what was asked for; raises GatoError as each says."""
    console = plain_console()
    command.run(console if console.is_terminal else plain_console(width=160))  # no line of a table is cut in a file


def each_task(root: Path, console: Console, work: Callable[[EpisodeStore], object]) -> None:
    """Do something with every task below a folder; one that fails does not keep the others from it.

    Raises:
        UsageError: there is no task.
        GatoError: some failed. Of one the error is raised; several are printed and counted.
    """
    folders, failures = task_folders(root), list[Exception]()
    for folder in folders:
        try:
            work(EpisodeStore(folder))
        except (GatoError, OSError) as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    for failure in failures:
        console.print(reason(failure), highlight=False, markup=False, soft_wrap=True)
    if failures:
        raise GatoError(f"{len(failures)} of {len(folders)} tasks in {root} failed, named above")


def _statistics(store: EpisodeStore) -> list[str]:
    indices = store.indices()
    stats = [store.stats(index) for index in indices]
    returns = np.array([each.total for each in stats])
    mean, std = (f"{returns.mean():.2f}", f"{returns.std():.2f}") if stats else ("-", "-")
    return [
        store.env_id, store.kind, f"{len(stats):,}", f"{len(kept(store)):,}",
        f"{len(stats) - len(store.pending()):,}", f"{sum(each.steps for each in stats):,}", mean, std,
        _success(stats), _noise(stats), f"{store.size() / 1e6:.2f}",
    ]  # fmt: skip


def _success(stats: list[EpisodeStats]) -> str:
    reported = any(each.success is not None for each in stats)  # some report success only when it is reached
    return f"{np.mean([bool(each.success) for each in stats]):.0%}" if reported else "-"


def _noise(stats: list[EpisodeStats]) -> str:
    """How many episodes have noise, and their levels, such as `13 (0.05-0.3)`."""
    levels = sorted(each.noise for each in stats if each.noise)
    return f"{len(levels)} ({levels[0]:g}-{levels[-1]:g})" if levels else "-"
