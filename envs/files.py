"""A file exists whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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


@contextmanager
def temporary_folder(root: Path, prefix: str) -> Iterator[Path]:
    """A locked folder below `root` for what is not complete; those that killed processes left there are removed."""
    for leftover in sorted(root.glob(f"{prefix}*")):
        with suppress(OSError), _locked(leftover) as free:  # gone meanwhile, or a link, which is not followed
            if free:
                shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    with _locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder; yields false if another process holds its lock."""
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def place_folder(folder: Path, target: Path) -> bool:
    """Move a complete folder to its place, durably; false if there is another, which stays."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for parent in sorted({path.parent for path in folder.rglob("*")} | {folder}):
        sync_folder(parent)
    try:
        folder.replace(target)
    except OSError:
        if target.exists():
            return False
        raise
    sync_folder(target.parent)
    return True


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
