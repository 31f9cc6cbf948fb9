"""A file exists whole or not at all."""

import fcntl
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

from gato_agent.envs.errors import UsageError


def write_files(files: Mapping[Path, bytes | Iterable[bytes | memoryview]]) -> None:
    """Write files that survive a crash: temporary names, fsync, rename, fsync of their folders.

    What is large may come in pieces. When this returns, all of them are on disk. When it does not, each is either as it
    was before or whole.
    """
    for folder in sorted({path.parent for path in files}):
        make_folder(folder)
    # Together, because a file system serves many waiting fsyncs at once: a tenth of the time for small files.
    with ThreadPoolExecutor(min(16, max(1, len(files)))) as threads:
        writing = [threads.submit(_write, path, data) for path, data in files.items()]
    try:
        for written in writing:
            written.result()
    except OSError:
        for partial in map(temporary, files):
            with suppress(OSError):  # a full disk must not stay full of what nobody can read
                partial.unlink()
        raise
    for path in files:
        temporary(path).replace(path)
    for folder in sorted({path.parent for path in files}):
        sync_folder(folder)


def _write(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    try:
        with temporary(path).open("wb") as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def lock_folder(folder: Path, verb: str) -> IO[bytes]:
    """Keep other processes from writing to a folder, until the file is closed or this process dies.

    Args:
        folder: is made if need be.
        verb: what the other process would be doing, for the message.

    Raises:
        UsageError: another process holds the lock.
    """
    make_folder(folder)
    file = (folder / ".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(
            f"another `gato-agent {verb}` writes to {folder}: wait for it to end, or choose another --out"
        ) from None
    return file


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing, so that they too survive a crash."""
    new = [place for place in (folder, *folder.parents) if not place.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in reversed(new):
        sync_folder(place.parent)


def temporary(path: Path) -> Path:
    """The name under which `path` is written before it is complete."""
    return path.with_name(f".{path.name}.partial")


def sync_folder(folder: Path) -> None:
    """Make new names inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
