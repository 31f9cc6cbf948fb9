"""Reading of Parquet files within limits; Parquet names no other files, and its types run no code."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.files import open_own
from gato_agent.rollouts.storage.imported import ADVICE

MOST_TIMES = 2**11  # largest ratio of the bytes in memory to those of the file
SLACK = 2**28  # bytes; smaller tables are not checked
MOST_STRING, MOST_ENTRIES = 2**24, 2**20  # of the footer


class Table:
    """A Parquet file, of which rows are read by number.

    Args:
        path: of the file.
        row_bytes: bytes of a row in memory, at least.

    Raises:
        GatoError: the file is damaged, or declares more than it can hold.
        UsageError: a link, or no regular file.
    """

    def __init__(self, path: Path, row_bytes: int = 0) -> None:
        self.path = path
        with ExitStack() as stack:
            file = stack.enter_context(open_own(path))
            try:
                self._file = pq.ParquetFile(
                    file, thrift_string_size_limit=MOST_STRING, thrift_container_size_limit=MOST_ENTRIES
                )
            except (pa.ArrowException, OSError, ValueError) as error:
                raise GatoError(f"{path} is damaged ({one_line(error)}): {ADVICE}") from error
            stored, about = path.stat().st_size, self._file.metadata
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            rows = sum(group.num_rows for group in groups)
            size = max(sum(group.total_byte_size for group in groups), rows * row_bytes)
            if rows != about.num_rows or size > max(SLACK, MOST_TIMES * stored):
                raise GatoError(f"{path} declares {rows:,} rows of {size:,} bytes, and has {stored:,} bytes: {ADVICE}")
            self._closing = stack.pop_all()
        self._starts = [0]
        for group in groups:
            self._starts.append(self._starts[-1] + group.num_rows)
        self._range = range(0)  # row groups whose columns are kept
        self._columns: dict[str, pa.ChunkedArray] = {}

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._file.schema_arrow.names)

    def __len__(self) -> int:
        return self._starts[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._closing.close()

    def read(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table:
        """Read columns of rows `start` to `stop`; the columns of the last row groups are kept.

        Raises:
            GatoError: a column or row is missing, or the file is damaged.
        """
        stop = len(self) if stop is None else stop
        if missing := [name for name in names if self.names.count(name) != 1]:
            raise GatoError(f"{self.path} has no column {missing[0]!r:.80}: {ADVICE}")
        if not 0 <= start <= stop <= len(self):
            raise GatoError(f"{self.path} has {len(self):,} rows, and not those from {start:,} to {stop:,}: {ADVICE}")
        first = max((i for i, begin in enumerate(self._starts[:-1]) if begin <= start), default=0)
        last = max((i + 1 for i, begin in enumerate(self._starts[:-1]) if begin < stop), default=first)
        if self._range != range(first, last):
            self._range, self._columns = range(first, last), {}
        if new := [name for name in names if name not in self._columns]:
            self._columns |= zip(new, self._groups(self._range, new).columns, strict=True)
        table = pa.Table.from_arrays([self._columns[name] for name in names], list(names))
        return table.slice(start - self._starts[first], stop - start)

    def _groups(self, groups: range, names: Sequence[str]) -> pa.Table:
        try:
            return self._file.read_row_groups(list(groups), columns=list(names), use_threads=False).select(list(names))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise GatoError(f"{self.path} is damaged ({one_line(error)}): {ADVICE}") from error
