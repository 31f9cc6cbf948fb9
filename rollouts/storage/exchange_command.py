"""`gato-agent data export` and `data import`: data sets of Minari and LeRobot."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from gato_agent.envs.errors import GatoError, UsageError, reason
from gato_agent.rollouts.storage.compact import compact
from gato_agent.rollouts.storage.episode_store import EpisodeStore, own_folder
from gato_agent.rollouts.storage.task_folder import task_folders

Folder = Annotated[
    Path,
    tyro.conf.Positional,
    tyro.conf.arg(help="Output folder of `gato-agent collect`, or the folder of one task in it."),
]
OPTIONS = {"minari": ("author", "author_email", "code_permalink"), "lerobot": ("fps", "video")}  # of one format alone
LEROBOT = "meta/info.json"  # description of a LeRobot data set


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
