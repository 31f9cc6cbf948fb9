"""Members of zip files, of bounded size: what a file says of its own contents is compared with its length first."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

MOST_TIMES = 64  # that contents are larger than their file: text is packed 10 times smaller, weights hardly
SPARE = 2**20  # bytes that any file may hold
MOST_MEMBERS = 10_000


def read_members(source: Path | bytes, names: Sequence[str] | None = None) -> dict[str, bytes]:
    """Contents of members of a zip file, whose checksums are tried.

    Args:
        source: its path, or its bytes.
        names: of members; None for all.

    Raises:
        ValueError: not a zip file, damaged, lacking a member, or too large in relation to its length.
        OSError: it cannot be read.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            check_sizes(file, size)
            return {name: file.read(name) for name in (file.namelist() if names is None else names)}
    except OSError as error:
        if error.errno is not None:  # otherwise a place behind the end of the file
            raise
        raise ValueError(f"a damaged zip file: {error}") from error
    except KeyError as error:
        raise ValueError(str(error.args[0])) from error
    except Exception as error:  # of many kinds: from zipfile, the unpackers, and struct
        raise ValueError(f"not a zip file, or damaged: {type(error).__name__}: {error}") from error


def check_sizes(file: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError for a file of `size` bytes that says to hold far more, or a name twice."""
    members = file.infolist()
    if len(members) > MOST_MEMBERS or len({member.filename for member in members}) < len(members):
        raise ValueError(f"a zip file of {len(members):,} members, or with a name twice")
    contents = sum(member.file_size for member in members)
    if contents > MOST_TIMES * size + SPARE:
        raise ValueError(f"a zip file of {size:,} bytes that says to hold {contents:,}")
