"""Folders that exist whole or not at all: written under a temporary name, and moved when they are complete."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gato_agent.envs.files import sync_folder


@contextmanager
def temporary_folder(root: Path, prefix: str) -> Iterator[Path]:
    """A locked temporary folder below `root`; those that killed processes left behind are removed."""
    for leftover in sorted(root.glob(f"{prefix}*")):
        with suppress(OSError), _locked(leftover) as free:  # removed meanwhile, or a link, which is not followed
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
    """Lock a folder; yields false if another process has the lock."""
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def place_folder(folder: Path, target: Path) -> bool:
    """Move a complete folder to `target` durably; false if `target` exists, which is not changed."""
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
