"""A file exists whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files that survive a crash: temporary names, fsync, rename, fsync of their folders.

    When this returns, all of them are on disk. When it does not, each is either as it was before or whole.
    """
    for path, data in files.items():
        make_folder(path.parent)
        with temporary(path).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for path in files:
        temporary(path).replace(path)
    for folder in {path.parent for path in files}:
        sync_folder(folder)


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
