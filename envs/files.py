"""Files that exist whole or not at all, written and read without following symbolic links."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import IO
from weakref import WeakKeyDictionary

from gato_agent.envs.errors import GatoError, UsageError

MOST_BYTES = 2**30  # of a file that is read as a whole
_locks: WeakKeyDictionary[IO[bytes], tuple[Path, os.stat_result]] = WeakKeyDictionary()  # folders of this process


def write_files(files: Mapping[Path, bytes | Iterable[bytes | memoryview]]) -> None:
    """Write files durably: temporary names, fsync, rename, fsync of their folders.

    When this returns, all files are on disk. If it raises, each file is either unchanged or whole. A symbolic link of
    one of these names is replaced; its target is not changed.

    Args:
        files: contents by path; large contents may be an iterable of pieces.

    Raises:
        GatoError: a locked folder was moved or removed.
        OSError: a file cannot be written.
    """
    for folder in sorted({path.parent for path in files}):
        make_folder(folder)
    # In threads, because a file system completes many waiting fsyncs at once.
    with ThreadPoolExecutor(min(16, max(1, len(files)))) as threads:
        writing = [threads.submit(_write, path, data) for path, data in files.items()]
    try:
        for written in writing:
            written.result()
    except OSError:
        for partial in map(temporary, files):
            with suppress(OSError):  # incomplete files must not keep a full disk full
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
    """Open a new file for writing; an existing file or link of that name is removed first."""
    path.unlink(missing_ok=True)
    return os.fdopen(_open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


def append(path: Path) -> IO[bytes]:
    """Open a file for appending; it is made if it does not exist.

    Raises:
        UsageError: the path is a link, or no regular file.
    """
    return os.fdopen(_open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def open_own(path: Path) -> BufferedReader:
    """Open a file for reading, in a folder that others may have made.

    Raises:
        UsageError: the path is a link, or no regular file.
    """
    return os.fdopen(_open(path, os.O_RDONLY), "rb")


def read_own(path: Path, most: int = MOST_BYTES) -> bytes:
    """Contents of a file; raises as `open_own`, and GatoError for a file of more than `most` bytes."""
    with open_own(path) as file:
        return _contents(file, path, most)


def read_named(path: Path, most: int = MOST_BYTES) -> bytes:
    """Contents of a file that the user named, which may be a link to it.

    Raises:
        UsageError: no regular file, such as a pipe.
        GatoError: more than `most` bytes, such as a sparse file.
        OSError: the file cannot be read.
    """
    with os.fdopen(_open(path, os.O_RDONLY, follow=True), "rb") as file:
        return _contents(file, path, most)


def _contents(file: IO[bytes], path: Path, most: int) -> bytes:
    if (size := os.fstat(file.fileno()).st_size) > most:
        raise GatoError(f"{path} has {size:,} bytes, and such files have at most {most:,}: is it another file?")
    return file.read()


def below(folder: Path, name: str) -> Path:
    """Path of a folder inside another one that the user named.

    Raises:
        UsageError: the path is a link, which may lead out of the named folder.
    """
    path = folder / name
    if path.is_symlink():
        raise _link(path)
    return path


def _open(path: Path, flags: int, *, follow: bool = False) -> int:
    """Open a regular file, by default not through a link, and without waiting for the other end of a pipe."""
    irregular = UsageError(f"{path} is no regular file: remove it, or use another folder")
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW * (not follow) | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if path.is_symlink() and not follow:
            raise _link(path) from error
        if error.errno == errno.ENXIO:  # a socket
            raise irregular from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise irregular
    return handle


def _link(path: Path) -> UsageError:
    return UsageError(
        f"{path} is a link, and links inside a folder are not followed: replace it by a copy of its target, or "
        "name the target folder itself"
    )


def lock_folder(folder: Path, verb: str) -> IO[bytes]:
    """Lock a folder against other writers until the returned file is closed or this process ends.

    Args:
        folder: the folder; it is made if it does not exist.
        verb: command of the other process, for the message.

    Raises:
        UsageError: another process has the lock, or the lock file is a link.
    """
    make_folder(folder)
    file = append(folder / ".lock")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(
            f"another `gato-agent {verb}` is writing to {folder}: wait for it to end, or choose another --out"
        ) from None
    _locks[file] = folder.absolute(), folder.stat()
    return file


def still_there(folder: Path) -> None:
    """Raise GatoError if this folder, or one above it, was moved or removed since this process locked it."""
    folders = {folder.absolute(), *folder.absolute().parents}
    for file, (locked, before) in list(_locks.items()):
        if locked in folders and not file.closed:
            try:
                same = os.path.samestat(locked.stat(), before)
            except (FileNotFoundError, NotADirectoryError):
                same = False
            if not same:
                raise GatoError(
                    f"{locked} was moved or removed while it was written to, and everything not yet reported as saved "
                    "is lost: move it back and repeat the command"
                )


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents durably.

    Raises:
        GatoError: the folder is in a locked folder that was moved or removed.
        UsageError: the folder, or one above it, is a file.
    """
    still_there(folder)
    new = [each for each in (folder, *folder.parents) if not each.is_dir()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        raise UsageError(f"{file} is a file, and a folder of this name is needed: choose another") from None
    for each in reversed(new):
        sync_folder(each.parent)


def temporary(path: Path) -> Path:
    """Name under which `path` is written until it is complete."""
    return path.with_name(f".{path.name}.partial")


def sync_folder(folder: Path) -> None:
    """Make new file names in `folder` durable (fsync)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
