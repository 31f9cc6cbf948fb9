"""Writer of a LeRobot data set: frames, videos, episodes, tasks, statistics and the description."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gato_agent.rollouts.storage.lerobot.columns import arrow_type, to_arrow
from gato_agent.rollouts.storage.lerobot.dataset import (
    COUNTERS,
    DATA,
    EPISODES,
    INFO,
    PATHS,
    STATS,
    TASKS,
    VERSION,
    VIDEOS,
)
from gato_agent.rollouts.storage.lerobot.features import TEXT, Feature
from gato_agent.rollouts.storage.lerobot.statistics import Statistics, joined, statistics_of
from gato_agent.rollouts.storage.lerobot.videos import FILE_BYTES, frame_writer, video_info

DATA_MB, VIDEO_MB, CHUNK = 100, 200, 1000  # of a file, and files of a folder, as LeRobot's
DTYPES = dict.fromkeys(COUNTERS, "int64") | {"timestamp": "float32"}
SAME = {"compression": "zstd", "store_schema": True}  # no time or host is written


class DatasetWriter:
    """Writer of the files below a new folder; `close` completes them.

    Args:
        folder: of the data set.
        features: of the frames.
        fps: frames a second.
    """

    def __init__(self, folder: Path, features: Sequence[Feature], fps: int) -> None:
        self._folder, self._fps = folder, fps
        self._features = [*features, *(Feature(name, DTYPES[name], (1,)) for name in COUNTERS)]
        self._stored = [feature for feature in self._features if feature.dtype != "video"]
        self._videos = {each.name: _Camera(folder, each, fps) for each in features if each.dtype == "video"}
        self._schema = pa.schema([(feature.name, arrow_type(feature)) for feature in self._stored])
        self._writer: Any = None
        self._file, self._frames = 0, 0
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._more: list[dict[str, pa.Array]] = []
        self._statistics: list[dict[str, Statistics]] = []

    def add(self, columns: Mapping[str, NDArray[Any]], tasks: Sequence[str], more: Mapping[str, pa.Array]) -> None:
        """Write an episode.

        Args:
            columns: feature -> array [T, *shape]; all features of the frames.
            tasks: text of each frame, [T].
            more: further columns of the episode's description, arrays of one row.
        """
        length, number = len(tasks), len(self._rows)
        indices = np.array([self._tasks.setdefault(task, len(self._tasks)) for task in tasks])
        frames = np.arange(length)
        counters: dict[str, NDArray[Any]] = {
            "timestamp": (frames / self._fps).astype(np.float32), "frame_index": frames,
            "episode_index": np.full(length, number), "index": frames + self._frames, "task_index": indices,
        }  # fmt: skip
        columns = {**columns, **counters}
        row: dict[str, Any] = {"episode_index": number, "tasks": list(dict.fromkeys(tasks)), "length": length}
        row |= self._write_rows(columns, length)
        for name, camera in self._videos.items():
            row |= camera.add(columns[name])
        numbers = [feature for feature in self._features if feature.dtype != TEXT]
        statistics = {feature.name: statistics_of(feature, columns[feature.name]) for feature in numbers}
        row |= {
            f"stats/{name}/{key}": value.tolist() for name, each in statistics.items() for key, value in each.items()
        }
        self._rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        self._more.append(dict(more))
        self._statistics.append(statistics)
        self._frames += length

    def close(self, more: Mapping[str, Any]) -> None:
        """Write the description, with more entries, and all that follows from the episodes."""
        self.abort()
        if self._rows:
            described = {name: [row[name] for row in self._rows] for name in self._rows[0]}
            table = pa.Table.from_pydict(described)
            for name in self._more[0]:
                table = table.append_column(name, pa.concat_arrays([each[name] for each in self._more]))
            _write(self._folder / EPISODES.format(chunk_index=0, file_index=0), table)
        _write(self._folder / TASKS, _tasks_table(self._tasks))
        statistics = {
            name: {key: value.tolist() for key, value in joined([each[name] for each in self._statistics]).items()}
            for name in self._statistics[0]
        }
        _write_json(self._folder / STATS, statistics)
        _write_json(self._folder / INFO, self._info() | dict(more))

    def abort(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for camera in self._videos.values():
            camera.close()

    def _write_rows(self, columns: Mapping[str, NDArray[Any]], length: int) -> dict[str, int]:
        """Write the rows of an episode as one group, in the next file if this one is full."""
        path = self._folder / DATA.format(chunk_index=self._file // CHUNK, file_index=self._file % CHUNK)
        if self._writer is not None and path.stat().st_size >= DATA_MB * 2**20:
            self._writer.close()
            self._writer, self._file = None, self._file + 1
            path = self._folder / DATA.format(chunk_index=self._file // CHUNK, file_index=self._file % CHUNK)
        if self._writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, self._schema, **SAME)
        arrays = [to_arrow(feature, columns[feature.name]) for feature in self._stored]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=length)
        return {
            "data/chunk_index": self._file // CHUNK, "data/file_index": self._file % CHUNK,
            "dataset_from_index": self._frames, "dataset_to_index": self._frames + length,
        }  # fmt: skip

    def _info(self) -> dict[str, Any]:
        described = {feature.name: feature.to_json() for feature in self._features}
        for name, camera in self._videos.items():
            described[name]["info"] = video_info(camera.feature, self._fps)
        return {
            "codebase_version": VERSION, "robot_type": None, "fps": self._fps, "features": described,
            "total_episodes": len(self._rows), "total_frames": self._frames, "total_tasks": len(self._tasks),
            "splits": {"train": f"0:{len(self._rows)}"}, **PATHS, "chunks_size": CHUNK,
            "data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": VIDEO_MB,
        } | ({} if self._videos else {"video_path": None})  # fmt: skip


class _Camera:
    """Videos of one feature; episodes follow one another in a file until it is full."""

    def __init__(self, folder: Path, feature: Feature, fps: int) -> None:
        self.feature = feature
        self._folder, self._fps = folder, fps
        self._file, self._frames, self._bytes = 0, 0, 0
        self._open = ExitStack()
        self._encoder: Any = None

    def add(self, images: NDArray[np.uint8]) -> dict[str, Any]:
        """Append the frames of an episode; returns its place."""
        if self._bytes >= FILE_BYTES:
            self.close()
            self._file, self._frames, self._bytes = self._file + 1, 0, 0
        chunk, file = self._file // CHUNK, self._file % CHUNK
        if self._encoder is None:
            path = self._folder / VIDEOS.format(video_key=self.feature.name, chunk_index=chunk, file_index=file)
            self._encoder = self._open.enter_context(frame_writer(path, self.feature, self._fps))
        for image in images:
            self._encoder.send(np.ascontiguousarray(image))
        begin, self._frames, self._bytes = self._frames, self._frames + len(images), self._bytes + images.nbytes
        return {
            f"videos/{self.feature.name}/chunk_index": chunk, f"videos/{self.feature.name}/file_index": file,
            f"videos/{self.feature.name}/from_timestamp": begin / self._fps,
            f"videos/{self.feature.name}/to_timestamp": self._frames / self._fps,
        }  # fmt: skip

    def close(self) -> None:
        """Complete the file."""
        self._open.close()
        self._encoder = None


def _tasks_table(tasks: Mapping[str, int]) -> pa.Table:
    """Indices of the tasks, with their texts as pandas' index."""
    about = {
        "index_columns": ["__index_level_0__"], "column_indexes": [],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64",
             "metadata": None},
            {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object",
             "metadata": None},
        ],
        "pandas_version": "2.0.0",
    }  # fmt: skip
    schema = pa.schema([("task_index", pa.int64()), ("__index_level_0__", pa.string())], {"pandas": json.dumps(about)})
    return pa.Table.from_pydict({"task_index": list(tasks.values()), "__index_level_0__": list(tasks)}, schema)


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **SAME)


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=4, ensure_ascii=False, allow_nan=False), encoding="utf-8")
