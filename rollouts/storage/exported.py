"""Common parts of exports to other formats.

A data set is written into a hidden folder, read back, compared, and then moved to its path as a whole:

    root/.gato-export-x7d2/gato/CartPole-v1-catalogue    ->    root/gato/CartPole-v1-catalogue

The next export removes the folder of a killed one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gato_agent.envs.errors import GatoError, UsageError, one_line, reason
from gato_agent.envs.files import below, make_folder
from gato_agent.envs.io.whole_folder import place_folder, temporary_folder
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import training_indices

BEGUN = ".gato-export-"  # prefix of the folders of incomplete data sets; Minari does not list hidden folders


def exported_indices(store: EpisodeStore) -> list[int]:
    """Indices of the episodes that pass the folder's filter; raises GatoError if there are none."""
    if numbers := training_indices(store):
        return numbers
    raise GatoError(f"{store.env_id}: no episodes to export in {store.folder}: collect some, or delete the folder")


def place_dataset(
    root: Path, dataset_id: str, write: Callable[[Path], object], compare: Callable[[Path], object]
) -> None:
    """Write a data set to its path, or compare the one that is there.

    Args:
        root: absolute path of the folder of data sets.
        dataset_id: path of the data set below `root`.
        write: writes the data set below another root, reads it back and compares it.
        compare: raises an exception if the data set in a folder does not hold the episodes.

    Raises:
        UsageError: another data set of that id, or a link in `root` in its place or above it.
    """
    target = root
    for name in dataset_id.split("/"):
        target = below(target, name)
    make_folder(target.parent)
    if not target.exists():
        with temporary_folder(root, BEGUN) as begun:
            write(begun)
            if place_folder(begun / dataset_id, target):
                return
    try:
        compare(target)
    except Exception as error:
        raise UsageError(
            f"{dataset_id}: a data set already exists in {target}, and it does not hold these episodes: delete it, or "
            "give another --namespace"
        ) from error


@contextmanager
def errors_named(dataset_id: str, package: str) -> Iterator[None]:
    """Convert the exceptions of a block to GatoErrors that name the data set and the package of its format."""
    try:
        yield
    except GatoError as error:
        raise GatoError(f"{dataset_id}: {error}") from error
    except OSError as error:
        raise GatoError(f"{dataset_id} cannot be written: {reason(error)}") from error
    except Exception as error:
        raise GatoError(f"{dataset_id}: {package} does not take these episodes: {one_line(error)}") from error
