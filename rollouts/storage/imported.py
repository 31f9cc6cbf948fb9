"""Common parts of imports from other formats: checks of files, their digest, and storing of the valid episodes."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from gymnasium.spaces import Space

from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.spaces.flatten import space_from_json, space_to_json
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore, indices_of
from gato_agent.rollouts.storage.task_folder import SPACES
from gato_agent.rollouts.storage.validate import EpisodeValidator, check_learnable
from gato_agent.rollouts.storage.writer import EpisodeWriter, Played

ADVICE = "export or download the data set again"


def check_files(folder: Path) -> None:
    """Refuse anything but regular files and folders.

    Raises:
        GatoError: the data set contains a link or a device; the message names it.
    """
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink():
                raise GatoError(f"{path} is a link to {path.readlink()}, which is not followed: {ADVICE}")
            if not path.is_dir() and not path.is_file():
                raise GatoError(f"{path} is no regular file: {ADVICE}")


def folder_sha256(folder: Path) -> str:
    """SHA-256 of the names and contents of all files of a folder."""
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                sha.update(block)
    return sha.hexdigest()


def header_of(
    env_id: str, spaces: tuple[Space[Any], Space[Any]], expert: Mapping[str, str], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Header of a task's folder, task.json.

    Args:
        env_id: id of the environment.
        spaces: of observations and actions.
        expert: kind, source and sha256.
        versions: of the packages that wrote the data set.

    Raises:
        GatoError: a space is too large to be read again.
    """
    described = {name: space_to_json(space) for name, space in zip(SPACES, spaces, strict=True)}
    for each in described.values():
        space_from_json(each)
    return {
        "env_id": env_id, "env_kwargs": {}, **described, "expert": dict(expert), "noise": False,
        "versions": dict(versions),
    }  # fmt: skip


class ImportedEpisodes:
    """Episodes of a data set, of which those that are not valid are left out.

    Args:
        name: the data set, for messages.
        read: reads the episode of a number.
        spaces: of observations and actions.
        clip_actions: true to clip actions to the bounds of a Box; otherwise their episodes are left out.
        say: called with a line for each episode that is left out.
    """

    def __init__(
        self, name: str, read: Callable[[int], Episode], spaces: tuple[Space[Any], Space[Any]], *,
        clip_actions: bool, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._name, self._read, self._spaces, self._clip, self._say = name, read, spaces, clip_actions, say
        self._reason = ""

    def store(self, out: Path, header: dict[str, Any], numbers: Mapping[int, int]) -> EpisodeStore:
        """Store the episodes that the task's folder does not have.

        Args:
            out: folder of the task folders.
            header: contents of task.json.
            numbers: index in the store -> number in the data set.

        Returns:
            The store, open for writing.

        Raises:
            UsageError: spaces that cannot be tokenized, or a folder of other episodes.
            GatoError: the data set has no episodes, or none is valid; then nothing is stored.
            OSError: an episode could not be written.
        """
        if not numbers:
            raise GatoError(f"{self._name}: the data set holds no episodes")
        check_learnable(header["env_id"], *self._spaces)
        missing = sorted(set(numbers).difference(indices_of(out, header["env_id"])))
        episodes = self._valid([numbers[index] for index in missing])
        first = next(episodes, None)  # before a folder is made, which might stay empty
        if first is None and len(missing) == len(numbers):
            raise GatoError(f"{self._name}: none of {len(numbers):,} episodes are valid: {self._reason}")
        store = EpisodeStore.create(out, header)
        _write(store, episodes if first is None else chain([first], episodes))
        return store

    def _valid(self, numbers: Sequence[int]) -> Iterator[Episode]:
        """Yield the valid episodes of these numbers; exceptions of the consumer are not caught."""
        validator = EpisodeValidator(*self._spaces, clip_actions=self._clip)
        for number in numbers:
            try:
                episode = validator.validate(self._read(number))
            except Exception as error:  # noqa: BLE001  # one damaged episode does not affect the others
                reason = str(error) if isinstance(error, GatoError) else one_line(error)
                self._reason = self._reason or f"episode {number}: {reason}"
                hint = "" if self._clip or "beyond its bounds" not in reason else " (--clip-actions clips actions)"
                self._say(f"{self._name}: episode {number} is left out: {reason}{hint}")
                continue
            yield episode


def _write(store: EpisodeStore, episodes: Iterable[Episode]) -> None:
    """Write episodes to a store, which an error closes."""
    try:
        with EpisodeWriter([store]) as writer:
            for episode in episodes:
                writer.add(Played(0, episode.seed, episode.encode(), len(episode), episode.total, 0.0))
                writer.poll()
    except BaseException:
        store.close()
        raise
