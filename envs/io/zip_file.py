"""Reader of zip files whose declared contents are bounded by the length of the file."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

MOST_TIMES = 64  # largest ratio of contents to file; text compresses about 10 times, weights hardly
SPARE = 2**20  # bytes of contents that any file may have
MOST_MEMBERS = 10_000


def read_members(source: Path | bytes, names: Sequence[str] | None = None) -> dict[str, bytes]:
    """Read members of a zip file and verify their checksums.

    Args:
        source: path or bytes of the file.
        names: names of the members; None for all.

    Raises:
        ValueError: not a zip file, damaged, without such a member, or its contents are too large for its length.
        OSError: the file cannot be read.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            check_sizes(file, size)
            return {name: file.read(name) for name in (file.namelist() if names is None else names)}
    except OSError as error:
        if error.errno is not None:  # otherwise an offset beyond the end of the file
            raise
        raise ValueError(f"a damaged zip file: {error}") from error
    except KeyError as error:
        raise ValueError(str(error.args[0])) from error
    except Exception as error:  # of many types: from zipfile, the decompressors, and struct
        raise ValueError(f"not a zip file, or damaged: {type(error).__name__}: {error}") from error


def check_sizes(file: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError for a file of `size` bytes that declares far larger contents, or a duplicate name."""
    members = file.infolist()
    if len(members) > MOST_MEMBERS or len({member.filename for member in members}) < len(members):
        raise ValueError(f"a zip file of {len(members):,} members, or with a name twice")
    contents = sum(member.file_size for member in members)
    if contents > MOST_TIMES * size + SPARE:
        raise ValueError(f"a zip file of {size:,} bytes that declares {contents:,} bytes of contents")
