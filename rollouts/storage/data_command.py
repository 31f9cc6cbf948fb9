"""`gato-agent data`: statistics, verification, compaction, filter, export and import of folders of episodes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import GatoError, UsageError, reason
from gato_agent.envs.io.console import plain_console
from gato_agent.rollouts.storage.compact import compact
from gato_agent.rollouts.storage.episode import EpisodeStats
from gato_agent.rollouts.storage.episode_store import EpisodeStore, own_folder
from gato_agent.rollouts.storage.filter import EpisodeFilter, filtered_indices, write_filter
from gato_agent.rollouts.storage.task_folder import task_folders
from gato_agent.rollouts.storage.verify import verify

Folder = Annotated[
    Path,
    tyro.conf.Positional,
    tyro.conf.arg(help="Output folder of `gato-agent collect`, or the folder of one task in it."),
]
OPTIONS = {"minari": ("author", "author_email", "code_permalink"), "lerobot": ("fps", "video")}  # of one format alone
LEROBOT = "meta/info.json"  # description of a LeRobot data set


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


@dataclass(frozen=True)
class Export:
    """Write every task as a data set of Minari or LeRobot; images are stored losslessly."""

    folder: Folder = Path("data")
    out: Path | None = None
    """Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets, and $HF_LEROBOT_HOME or
    ~/.cache/huggingface/lerobot."""
    format: Literal["minari", "lerobot"] = "minari"
    """For `minari.load_dataset`, or for `LeRobotDataset` of version 3.0."""
    namespace: str = "gato"
    """First part of the data sets' ids, such as gato/CartPole-v1/catalogue-v0 or gato/CartPole-v1-catalogue."""
    author: str = "gato-agent"
    """Author named in Minari's metadata."""
    author_email: str | None = None
    """E-mail address of the author."""
    code_permalink: str | None = None
    """URL of the code that made the data."""
    fps: int = 30
    """Frames a second of a LeRobot data set, from which its timestamps follow."""
    video: bool = False
    """Images of a LeRobot data set as MP4 (H.264), which is small and lossy, instead of PNG."""

    def run(self, console: Console) -> None:
        """Export one task after the other and print the ids; raises as `each_task`, and UsageError for options."""
        self._check_options()
        write = self._lerobot() if self.format == "lerobot" else self._minari()

        def work(store: EpisodeStore) -> None:
            own_folder(self.folder, store)  # the target of a link is not exported
            dataset_id, count = write(store)
            text = f"{store.env_id}: {count:,} episodes exported as {dataset_id}"
            console.print(text, highlight=False, soft_wrap=True)

        each_task(self.folder, console, work)

    def _check_options(self) -> None:
        """Raise UsageError for options that only the other format has."""
        for form, names in OPTIONS.items():
            for name in names if form != self.format else ():
                if getattr(self, name) != getattr(Export, name):
                    option = name.replace("_", "-")
                    raise UsageError(f"--{option} is for --format {form}: leave it out, or add --format {form}")

    def _minari(self) -> Callable[[EpisodeStore], tuple[str, int]]:
        """Export of a store to Minari; raises UsageError without the package."""
        from gato_agent.rollouts.storage.minari.dataset import load_minari
        from gato_agent.rollouts.storage.minari.exporting import export

        load_minari()  # without it no task can be exported
        about = {"author": self.author, "author_email": self.author_email, "code_permalink": self.code_permalink}
        return lambda store: export(store, self.namespace, self.out, about)

    def _lerobot(self) -> Callable[[EpisodeStore], tuple[str, int]]:
        """Export of a store to LeRobot; raises UsageError without pyarrow."""
        from gato_agent.rollouts.storage.lerobot.exporting import export

        return lambda store: export(store, self.namespace, self.out, fps=self.fps, video=self.video)


@dataclass(frozen=True)
class Import:
    """Import the episodes of a Minari or LeRobot data set; none of its code is executed."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of a data set, or the id of a public one of Minari to download, such as D4RL/door/human-v2."""
    out: Path = Path("data")
    """Folder for the episodes, one folder per environment inside it."""
    env: str | None = None
    """Id of the environment, if the data set does not name it."""
    clip_actions: bool = False
    """Clip actions beyond their bounds instead of leaving out their episodes."""
    spaces: Path | None = None
    """Task whose spaces the episodes of a LeRobot data set have: its folder in what `gato-agent collect --out` wrote.
    By default they are those of the export, or derived from the features and values."""
    image_size: tuple[int, int] | None = None
    """Height and width to which images of a LeRobot data set are resized, pixels, where spaces are derived."""

    def run(self, console: Console) -> None:
        """Import the episodes and compact them."""
        left_out: list[str] = []
        with self._import(left_out.append) as store:
            compact(store)
        for line in left_out:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        but = f", and {len(left_out):,} are left out" if left_out else ""
        text = f"{store.env_id}: {len(store.indices()):,} episodes of {self.source} are in {store.folder}{but}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _import(self, say: Callable[[str], None]) -> EpisodeStore:
        """Import by the format of the folder; raises UsageError for options of the other format."""
        folder = Path(self.source)
        if (folder / LEROBOT).is_file():
            from gato_agent.rollouts.storage.lerobot import importing as lerobot

            return lerobot.import_(
                folder, self.out, self.env, spaces=self.spaces, image_size=self.image_size,
                clip_actions=self.clip_actions, say=say,
            )  # fmt: skip
        from gato_agent.rollouts.storage.minari import importing as minari

        if self.spaces or self.image_size:
            raise UsageError(f"--spaces and --image-size are for LeRobot data sets, and {folder} has no {LEROBOT}")
        return minari.import_(self.source, self.out, self.env, clip_actions=self.clip_actions, say=say)


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


def each_task(root: Path, console: Console, work: Callable[[EpisodeStore], object]) -> None:
    """Apply a function to every task below a folder, also after one has failed.

    Raises:
        UsageError: there is no task.
        GatoError: one task failed; or several, whose errors are printed before.
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
