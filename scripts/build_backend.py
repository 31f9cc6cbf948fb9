"""Build backend: setuptools, whose editable install is also found by mypy and pyright.

Setuptools installs packages from several folders by an import hook, which static tools do not run. The wheel gets a
`.pth` file too, with a folder that holds nothing but a link to the package.
"""

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable", "build_sdist", "build_wheel", "get_requires_for_build_editable", "get_requires_for_build_sdist",
    "get_requires_for_build_wheel", "prepare_metadata_for_build_editable", "prepare_metadata_for_build_wheel",
]  # fmt: skip

PACKAGE = "gato_agent"


def build_editable(
    wheel_directory: str, config_settings: Mapping[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel of an editable install; returns its name."""
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    add_file(Path(wheel_directory, name), f"__editable__.{PACKAGE}.links.pth", f"{linked(Path.cwd())}\n".encode())
    return name


def linked(root: Path) -> Path:
    """Make the folder below `root` that holds a link to the package; returns it."""
    folder = root / "build" / "editable"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PACKAGE).is_symlink():
        (folder / PACKAGE).symlink_to(Path("..", "..", PACKAGE), target_is_directory=True)
    return folder


def add_file(wheel: Path, name: str, content: bytes) -> None:
    """Write a wheel again with one file more, which its RECORD lists."""
    with zipfile.ZipFile(wheel) as archive:
        files = {entry: archive.read(entry) for entry in archive.infolist()}
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        for entry, data in files.items():
            line = f"{name},sha256={digest},{len(content)}\n" if entry.filename.endswith(".dist-info/RECORD") else ""
            archive.writestr(entry, line.encode() + data)
