"""Store of the episodes of one task by one expert: a folder, in which an episode's index is its seed.

    data/CartPole-v1/task.json                                header: environment, expert and settings of all episodes
    data/CartPole-v1/00000000-00000099.shard.safetensors      compacted: many episodes in a file that is mapped
    data/CartPole-v1/00000100-00000173.group.safetensors ...  pending: the episodes of about a second of collection

Files are named by the seeds of their first and last episode. A file exists whole or not at all, so a killed collection
can be resumed. During compaction an episode may be in two files, with the same contents.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from gato_agent.envs.errors import GatoError
from gato_agent.envs.files import below, lock_folder, write_files
from gato_agent.envs.io.strict_json import with_digest
from gato_agent.envs.spaces.flatten import leaves
from gato_agent.rollouts.storage.compression import Encoded
from gato_agent.rollouts.storage.episode import Episode, EpisodeStats
from gato_agent.rollouts.storage.shard import WAY_OUT, Shard, joined
from gato_agent.rollouts.storage.task_folder import (
    FORMAT,
    HEADER,
    SPACES,
    check_same,
    read_header,
    space_of,
    task_folder,
    task_folders,
)

SHARD = re.compile(r"\d{8,}-\d{8,}\.(shard|group)\.safetensors")


class EpisodeStore:
    """Store of the episodes of one task. Reading takes no lock; `create` and `open` lock the folder for writing.

    Attributes:
        folder: folder of the files.
        header: contents of task.json: format, env_id, env_kwargs, observation_space, action_space, expert
            {kind, source, sha256}, noise, versions; and learner {kind, sha256, beta} if an agent acted.
        observation_space: space of single observations, rebuilt from JSON.
        action_space: space of single actions, rebuilt from JSON.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None
        self._shards: dict[Path, Shard] = {}
        self._shard_of: dict[int, Shard] = {}
        self.header = read_header(folder / HEADER)
        self.observation_space, self.action_space = (space_of(folder / HEADER, self.header, name) for name in SPACES)
        self._kinds = {
            group: {leaf.path: (leaf.dtype, leaf.shape) for leaf in leaves(space)}
            for group, space in (("observations", self.observation_space), ("actions", self.action_space))
        }

    @classmethod
    def create(cls, root: Path, header: dict[str, Any]) -> Self:
        """Open the folder of `header["env_id"]` under `root` for writing; it is made if it does not exist.

        Raises:
            UsageError: another process writes to the folder, it has episodes of other settings, it is a link, or the
                id is invalid.
        """
        folder = task_folder(root, header["env_id"])
        with ExitStack() as stack:
            lock = stack.enter_context(lock_folder(folder, "collect"))
            if not (folder / HEADER).exists():
                write_files({folder / HEADER: with_digest({"format": FORMAT, **header}, indent=1, sort_keys=True)})
            check_same(folder, read_header(folder / HEADER), header)
            stack.pop_all()
        return cls._writable(folder, lock)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a task's folder for writing; raises UsageError if it is no such folder, or locked."""
        read_header(folder / HEADER)
        return cls._writable(folder, lock_folder(folder, "collect"))

    @classmethod
    def _writable(cls, folder: Path, lock: IO[bytes]) -> Self:
        for leftover in folder.glob(".*.partial"):
            leftover.unlink()
        store = cls(folder)
        store._lock = lock
        return store

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def env_id(self) -> str:
        """Id of the environment."""
        return str(self.header["env_id"])

    @property
    def kind(self) -> str:
        """Kind of the actor: the expert's kind, with the prefix `dagger-` if an agent acted."""
        learner = self.header.get("learner")
        return f"{learner['kind']}-{self.header['expert']['kind']}" if learner else str(self.header["expert"]["kind"])

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment."""
        return dict(self.header["env_kwargs"])

    def commit(self, episodes: Sequence[Encoded]) -> None:
        """Write new episodes durably as one pending file.

        Raises:
            ValueError: a file with the same first and last seed exists.
        """
        ordered = sorted(episodes, key=lambda each: each.seed)
        path = self.folder / f"{ordered[0].seed:08d}-{ordered[-1].seed:08d}.group.safetensors"
        if path.exists():
            raise ValueError(f"{path} already exists")
        self.write({path: joined(ordered)})

    def write(self, files: Mapping[Path, bytes]) -> None:
        """Write files of the folder as `write_files` does; raises ValueError if the store is not open for writing."""
        if self._lock is None:
            raise ValueError("the store is read-only: open it with EpisodeStore.create or EpisodeStore.open")
        write_files(files)

    def indices(self) -> list[int]:
        """Indices (= seeds) of all episodes, ascending."""
        return sorted({seed for shard in self.shards() for seed in shard.seeds})

    def pending(self) -> list[int]:
        """Indices of the episodes that are not compacted, ascending."""
        pending = {seed: is_pending(shard.path) for shard in self.shards() for seed in shard.seeds}
        return sorted(seed for seed, waits in pending.items() if waits)

    def shards(self) -> list[Shard]:
        """Open the files, in the order of names; raises GatoError if one is damaged."""
        paths = self.shard_paths()
        known = {path: shard for path, shard in self._shards.items() if path in paths and shard.is_current()}
        self._shards = {path: known.get(path) or Shard(path) for path in paths}
        self._shard_of = {seed: shard for shard in self._shards.values() for seed in shard.seeds}
        return list(self._shards.values())

    def shard_paths(self) -> list[Path]:
        """Paths of the files, in the order of names."""
        with os.scandir(self.folder) as entries:
            return sorted(self.folder / entry.name for entry in entries if SHARD.fullmatch(entry.name))

    def read(self, index: int) -> Episode:
        """Read one episode.

        Raises:
            GatoError: the file is missing, truncated or damaged; the message names the file and the way out.
        """
        return self._shard(index).read(index)

    def _shard(self, index: int) -> Shard:
        """File of an episode; raises GatoError if there is none."""
        if index not in self._shard_of:
            self.shards()
        if index not in self._shard_of:
            raise GatoError(f"{self.folder} has no episode {index}: repeat the `gato-agent collect` command")
        return self._shard_of[index]

    def fitting(self, index: int) -> Episode:
        """Read one episode and check it against the spaces; raises GatoError as `read`, and if it does not fit."""
        episode = self.read(index)
        if problem := self.mismatch(episode):
            raise GatoError(problem)
        return episode

    def mismatch(self, episode: Episode) -> str | None:
        """Message on columns of an episode that differ from the spaces' leaves, dtypes or shapes; None if none do."""
        groups = {"observations": episode.observations, "actions": episode.actions, "labels": episode.targets}
        for group, columns in groups.items():
            kinds = {path: (column.dtype, column.shape[1:]) for path, column in columns.items()}
            if kinds != self._kinds["observations" if group == "observations" else "actions"]:
                return f"{self.folder}: episode {episode.seed} has other {group} than task.json says; {WAY_OUT}"
        if episode.rewards.dtype != np.float64 or episode.rewards.ndim != 1:
            return f"{self.folder}: episode {episode.seed} has rewards of {episode.rewards.dtype}; {WAY_OUT}"
        return None

    def encoded(self, index: int) -> Encoded:
        """Encoded arrays of one episode; raises GatoError as `read`."""
        return self._shard(index).encoded(index)

    def stats(self, index: int) -> EpisodeStats:
        """Length, return, success and noise of one episode; raises GatoError as `read`."""
        return self._shard(index).stats(index)

    def size(self) -> int:
        """Size of all files, bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir())


def is_pending(path: Path) -> bool:
    """True for a file that is not compacted; a shard may have the same seeds in its name."""
    return path.name.endswith(".group.safetensors")


def indices_of(root: Path, env_id: str) -> list[int]:
    """Indices of a task's episodes under `root`, ascending; empty if there is no such task.

    Raises:
        UsageError: the folder is a link, or the id is invalid.
        GatoError: the folder is damaged.
    """
    folder = task_folder(root, env_id)
    return EpisodeStore(folder).indices() if (folder / HEADER).is_file() else []


def open_stores(root: Path) -> list[EpisodeStore]:
    """Open the folders of tasks in `root`, or `root` itself, for reading; raises as `task_folders` does.

    A task's folder may be a link, which combines several data sets; it is then read-only, see `own_folder`.
    """
    return [EpisodeStore(folder) for folder in task_folders(root)]


def own_folder(root: Path, store: EpisodeStore) -> Path:
    """Folder of a store in `root`, for writing or exporting.

    Raises:
        UsageError: the folder is a link in `root`.
    """
    return store.folder if store.folder == root else below(root, store.folder.name)
