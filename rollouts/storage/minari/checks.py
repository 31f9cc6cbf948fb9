"""Checks of the files of a Minari data set: HDF5 without references to other files, and images in JPEG only.

HDF5 can refer to a group of another file (external link), to numbers in any file (external storage) or to data sets of
other files (virtual data set), and give one object several names. These would read files that the user did not name,
and a data set does not need them, so they are refused before any data is read.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gymnasium.spaces import Box, Space

from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.flatten import leaves
from gato_agent.rollouts.storage.imported import ADVICE

MOST_TIMES = 2**11  # largest compression ratio of an array; gzip reaches 1,032
SLACK = 2**16  # bytes; smaller arrays are not checked
METADATA, ARRAYS = "metadata.json", "main_data.hdf5"


def check_arrays(path: Path) -> None:
    """Refuse HDF5 with references to other files, or with arrays of impossible size.

    Raises:
        GatoError: a link, external storage, a virtual data set, or an array too large for its stored bytes; the
            message names it.
        OSError: the file is no HDF5, or damaged.
    """
    from h5py import File, h5l, h5o

    with File(path, "r") as file:
        waiting = [(f"{path}: ", file["/"].id)]  # of the low-level interface, which is faster
        while waiting:
            place, group = waiting.pop()
            for name in group:
                where = f"{place}/{name.decode(errors='replace')}"
                if group.links.get_info(name).type != h5l.TYPE_HARD:
                    raise GatoError(f"{where} is a link to another place or file, which is not followed: {ADVICE}")
                about = h5o.get_info(group, name)
                if about.rc > 1:
                    raise GatoError(f"{where} has several names in the file: {ADVICE}")
                each = h5o.open(group, name)
                if about.type == h5o.TYPE_GROUP:
                    waiting.append((where, each))
                elif about.type == h5o.TYPE_DATASET:
                    _check_array(each, where)


def _check_array(array: Any, where: str) -> None:
    """Check one array, `h5py.h5d.DatasetID`."""
    from h5py import h5d

    how = array.get_create_plist()
    if how.get_layout() == h5d.VIRTUAL or how.get_external_count():
        raise GatoError(f"{where} stores its numbers in other files, which are not read: {ADVICE}")
    size, stored = array.get_space().get_simple_extent_npoints() * array.get_type().get_size(), array.get_storage_size()
    if size > max(SLACK, MOST_TIMES * stored):
        raise GatoError(f"{where} declares {size:,} bytes, of which {stored:,} are stored: {ADVICE}")


def check_episodes(folder: Path, metadata: Mapping[str, Any]) -> range:
    """Numbers of all episodes of a data set, after a check that they exist.

    Args:
        folder: folder of the data set's files.
        metadata: metadata with `total_episodes`, and `data_format`: hdf5, or one with a folder for each episode.

    Raises:
        GatoError: `total_episodes` is invalid, episodes are missing, or `check_arrays` fails.
    """
    count, hdf5 = metadata["total_episodes"], metadata.get("data_format", "hdf5") == "hdf5"
    if hdf5:
        check_arrays(folder / ARRAYS)
    if type(count) is not int or count < 0:
        raise GatoError(f"{folder / METADATA} has total_episodes {count!r:.80}, which is no number: {ADVICE}")
    if hdf5:
        import h5py

        with h5py.File(folder / ARRAYS, "r") as file:
            present = set(file)
        names: Iterator[str] = (f"episode_{number}" for number in range(count))
    else:
        present = {path.name for path in folder.iterdir() if path.is_dir()}
        names = map(str, range(count))
    if count > len(present):
        raise GatoError(f"{folder / METADATA} has total_episodes {count:,}, and {len(present):,} exist: {ADVICE}")
    if missing := next((name for name in names if name not in present), None):
        raise GatoError(f"{folder} has no {missing}, though total_episodes is {count:,}: {ADVICE}")
    return range(count)


@contextmanager
def only_jpeg(spaces: tuple[Space[Any], ...]) -> Iterator[None]:
    """Restrict Minari's decoding of images to JPEG of the spaces' sizes: some of Pillow's formats start programs."""
    from PIL import Image

    places = (f"minari.dataset._storages.{name}_storage" for name in ("hdf5", "arrow"))
    modules: list[Any] = [sys.modules[name] for name in places if name in sys.modules]

    shapes = [leaf.space.shape for space in spaces for leaf in leaves(space) if isinstance(leaf.space, Box)]
    sizes = {(shape[1], shape[0]) for shape in shapes if len(shape) in (2, 3)}

    class Jpeg:
        """Replacement of Pillow's module `Image`."""

        @staticmethod
        def open(file: Any) -> Image.Image:
            image = Image.open(file, formats=("JPEG",))
            if image.size not in sizes:
                raise ValueError(f"an image of {image.width} x {image.height}, which is no observation's size")
            return image

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch.object(module, "Image", Jpeg))
        yield
