"""Files that exist whole or not at all. No write follows a link, and no read inside a folder of episodes does."""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO
from weakref import WeakKeyDictionary

from gato_agent.envs.errors import GatoError, UsageError

_held: WeakKeyDictionary[IO[bytes], tuple[Path, os.stat_result]] = WeakKeyDictionary()  # folders of this process


def write_files(files: Mapping[Path, bytes | Iterable[bytes | memoryview]]) -> None:
    """Write files that survive a crash: temporary names, fsync, rename, fsync of their folders.

    What is large may come in pieces. When this returns, all of them are on disk. When it does not, each is either as it
    was before or whole. A link that has one of these names is replaced, and what it leads to stays as it is.

    Raises:
        GatoError: a locked folder was moved or removed.
        OSError: a file cannot be written.
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
        with create(temporary(path)) as file:
            file.writelines((data,) if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def create(path: Path) -> IO[bytes]:
    """Open a new file for writing; a file or link of that name is removed first."""
    path.unlink(missing_ok=True)
    return os.fdopen(_open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


def append(path: Path) -> IO[bytes]:
    """Open a file to write at its end, making it if need be.

    Raises:
        UsageError: it is a link, or no regular file.
    """
    return os.fdopen(_open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def open_own(path: Path) -> BufferedReader:
    """Open a file of a folder for reading, where the folder may come from elsewhere.

    Raises:
        UsageError: it is a link, or no regular file.
    """
    return os.fdopen(_open(path, os.O_RDONLY), "rb")


def read_own(path: Path) -> bytes:
    """The contents of a file that is no link; raises as `open_own`."""
    with open_own(path) as file:
        return file.read()


def below(folder: Path, name: str) -> Path:
    """The path of a folder inside another one that the user named.

    Raises:
        UsageError: it is a link, which may lead out of the folder that was named.
    """
    path = folder / name
    if path.is_symlink():
        raise _link(path)
    return path


def _open(path: Path, flags: int) -> int:
    """Open a regular file without following a link, and without waiting for the other end of a pipe."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise _link(path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UsageError(f"{path} is no regular file: remove it, or use another folder")
    return handle


def _link(path: Path) -> UsageError:
    return UsageError(
        f"{path} is a link, and no link inside a folder is followed: put a copy of what it leads to in its place, or "
        "name the folder that it leads to itself"
    )


def lock_folder(folder: Path, verb: str) -> IO[bytes]:
    """Keep other processes from writing to a folder, until the file is closed or this process dies.

    Args:
        folder: is made if need be.
        verb: what the other process would be doing, for the message.

    Raises:
        UsageError: another process holds the lock, or the lock is a link.
    """
    make_folder(folder)
    file = append(folder / ".lock")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(
            f"another `gato-agent {verb}` writes to {folder}: wait for it to end, or choose another --out"
        ) from None
    _held[file] = folder.absolute(), folder.stat()
    return file


def still_there(folder: Path) -> None:
    """Raise GatoError if this folder, or one above it, was moved or removed since this process locked it."""
    places = {folder.absolute(), *folder.absolute().parents}
    for file, (locked, before) in list(_held.items()):
        if locked in places and not file.closed:
            try:
                same = os.path.samestat(locked.stat(), before)
            except (FileNotFoundError, NotADirectoryError):
                same = False
            if not same:
                raise GatoError(
                    f"{locked} was moved or removed while it was written to, and what has not been reported as saved "
                    "is lost: move it back and repeat the command"
                )


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing, so that they too survive a crash.

    Raises:
        GatoError: it belongs to a locked folder that was moved or removed: a new one would lack what else is in it.
    """
    still_there(folder)
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
