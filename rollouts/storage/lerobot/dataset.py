"""Files of a LeRobot data set: description, episodes, tasks, rows and images.

meta/info.json                                version, features, frames a second
meta/tasks.parquet                            texts of the tasks
meta/episodes/chunk-000/file-000.parquet      an episode a row: rows, places in the videos
data/chunk-000/file-000.parquet               a frame a row: numbers, texts, PNG
videos/FEATURE/chunk-000/file-000.mp4
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import read_own
from gato_agent.envs.io.strict_json import parse
from gato_agent.rollouts.storage.imported import ADVICE, check_files
from gato_agent.rollouts.storage.lerobot.columns import from_arrow
from gato_agent.rollouts.storage.lerobot.features import IMAGES, TEXT, Feature, feature_from_json
from gato_agent.rollouts.storage.lerobot.tables import Table
from gato_agent.rollouts.storage.lerobot.videos import FrameReader

VERSION, CONVERTIBLE = "v3.0", "v2.1"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
PATHS = {"data_path": DATA, "video_path": VIDEOS}  # others would be templates that a stranger wrote
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # features of each data set
SIZES = ("episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")
PREFIX = "gato"  # entry of the description, and prefix of columns, that other programs do not write


class EpisodeRow(NamedTuple):
    """Place of an episode: its file, its rows in the file, and the row of its description."""

    path: Path
    start: int
    length: int
    row: int


class LeRobotFiles:
    """A data set on disk, checked before its rows are read.

    Attributes:
        folder: of the data set.
        info: contents of meta/info.json.
        features: by name.
        tasks: texts by index.
        episodes: places by number.

    Raises:
        UsageError: the folder has no data set.
        GatoError: the data set is damaged, of another version, or refers to other files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_files(folder)
        self.info = _read_info(folder)
        self.features = {name: _feature(folder, name, each) for name, each in self.info["features"].items()}
        self.fps = _fps(folder, self.info)
        self.tasks = _tasks(folder)
        self._about, self.episodes = self._read_episodes()
        self._table: Table | None = None
        self._readers: dict[str, FrameReader] = {}

    @property
    def own(self) -> Mapping[str, Any] | None:
        """Entry of our export in the description; None for other data sets."""
        own = self.info.get(PREFIX)
        return own if isinstance(own, Mapping) else None

    def about(self, number: int, name: str) -> Any:
        """Value of a column of an episode's description; None if there is no such column."""
        table, row = self._about[self.episodes[number].row]
        return table.read([name], row, row + 1).column(name)[0].as_py() if name in table.names else None

    def final(self, number: int, feature: Feature) -> NDArray[Any] | None:
        """Observation after the last action, [1, ...]; None if it is not stored."""
        table, row = self._about[self.episodes[number].row]
        name = f"{PREFIX}/final/{feature.name}"
        if name not in table.names:
            return None
        still = feature._replace(dtype="image") if feature.dtype in IMAGES else feature
        array = table.read([name], row, row + 1).column(name)
        return None if array.null_count else from_arrow(still, array)

    def columns(self, number: int, features: Sequence[Feature]) -> dict[str, NDArray[Any]]:
        """Columns of an episode by feature, after a check that the rows are this episode's.

        Raises:
            GatoError: rows, columns or images are missing, or of another episode or type.
        """
        place = self.episodes[number]
        stored = [feature for feature in features if feature.dtype != "video"]
        counters = [Feature(name, "int64", (1,)) for name in ("episode_index", "frame_index")]
        rows = self._rows(place, [*stored, *counters])
        columns = {each.name: from_arrow(each, rows.column(each.name)) for each in (*stored, *counters)}
        indices = columns.pop("episode_index").reshape(-1), columns.pop("frame_index").reshape(-1)
        if (indices[0] != number).any() or (indices[1] != np.arange(place.length)).any():
            raise GatoError(f"{place.path}: rows from {place.start:,} are not those of episode {number}: {ADVICE}")
        for feature in features:
            if feature.dtype == "video":
                columns[feature.name] = self._frames(number, feature)
        return columns

    def instructions(self, number: int) -> NDArray[Any]:
        """Texts of the tasks of an episode's frames, object [T]."""
        place = self.episodes[number]
        index = Feature("task_index", "int64", (1,))
        indices = from_arrow(index, self._rows(place, [index]).column("task_index")).reshape(-1)
        if missing := set(indices.tolist()) - self.tasks.keys():
            raise GatoError(f"{self.folder / TASKS} has no task {min(missing)}: {ADVICE}")
        texts = np.empty(place.length, dtype=object)
        texts[:] = [self.tasks[int(index)] for index in indices]
        return texts

    def close(self) -> None:
        """Close all files."""
        for reader in self._readers.values():
            reader.close()
        for table in {table for table, _ in self._about}:
            table.close()
        self._close_rows()

    def _close_rows(self) -> None:
        if self._table is not None:
            self._table.close()
        self._table = None

    def _rows(self, place: EpisodeRow, features: Sequence[Feature]) -> Any:
        if self._table is None or self._table.path != place.path:
            self._close_rows()
            self._table = Table(place.path, _row_bytes(self.features.values()))
        return self._table.read([feature.name for feature in features], place.start, place.start + place.length)

    def _frames(self, number: int, feature: Feature) -> NDArray[np.uint8]:
        names = [f"videos/{feature.name}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        chunk, file, begin = (self.about(number, name) for name in names)
        if type(chunk) is not int or type(file) is not int or not isinstance(begin, float) or not 0 <= begin < 1e9:
            raise GatoError(f"{self.folder}: episode {number} has no place in the videos of {feature.name}: {ADVICE}")
        path = self.folder / VIDEOS.format(video_key=feature.name, chunk_index=chunk, file_index=file)
        if not path.is_file():
            raise GatoError(f"{path} is missing: {ADVICE}")
        reader = self._readers.setdefault(feature.name, FrameReader(feature, self.fps))
        return reader.read(path, round(begin * self.fps), self.episodes[number].length)

    def _read_episodes(self) -> tuple[list[tuple[Table, int]], dict[int, EpisodeRow]]:
        """Row of each episode's description, and the places of the episodes by number."""
        tables = [Table(path) for path in sorted(self.folder.glob("meta/episodes/*/*.parquet"))]
        rows = [(table, row) for table in tables for row in range(len(table))]
        sizes: list[list[int]] = []
        for table in tables:
            columns = table.read(SIZES)
            sizes += np.stack(
                [from_arrow(Feature(name, "int64", (1,)), columns.column(name)).reshape(-1) for name in SIZES], axis=1
            ).tolist()
        _check_sizes(self.folder, sizes, self.info)
        begins: dict[tuple[int, int], int] = {}
        for _, _, chunk, file, begin, _ in sizes:
            begins[chunk, file] = min(begin, begins.get((chunk, file), begin))
        places = {
            number: EpisodeRow(
                self.folder / DATA.format(chunk_index=chunk, file_index=file), begin - begins[chunk, file], length, row
            )
            for row, (number, length, chunk, file, begin, _) in enumerate(sizes)
        }
        return rows, dict(sorted(places.items()))


def _check_sizes(folder: Path, sizes: Sequence[Sequence[int]], info: Mapping[str, Any]) -> None:
    """Raise GatoError for numbers, lengths or places of episodes that cannot be."""
    for number, length, chunk, file, begin, end in sizes:
        if min(number, chunk, file, begin) < 0 or length < 1 or end - begin != length:
            raise GatoError(f"{folder}: episode {number} has rows {begin:,} to {end:,} and length {length:,}: {ADVICE}")
    if len({row[0] for row in sizes}) != len(sizes) or info["total_episodes"] != len(sizes):
        raise GatoError(f"{folder / INFO} has total_episodes {info['total_episodes']!r:.80}, and {len(sizes):,} exist: "
                        f"{ADVICE}")  # fmt: skip


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    try:
        info = parse(read_own(path), finite=False)
    except FileNotFoundError:
        raise UsageError(f"{folder} is no LeRobot data set: it has no {INFO}") from None
    except ValueError as error:
        raise GatoError(f"{path} is damaged ({error}): download it again") from error
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict) or "total_episodes" not in info:
        raise GatoError(f"{path} lacks features or the number of episodes: download it again")
    version = info.get("codebase_version")
    if version != VERSION:
        remedy = f"convert it with `{_conversion(folder)}`" if version == CONVERTIBLE else f"get it in {VERSION}"
        raise GatoError(f"{path} has version {version!r:.80}, and {VERSION} is read: {remedy}")
    for key, wanted in PATHS.items():
        if info.get(key) not in (wanted, None):
            raise GatoError(f"{path} has the {key} {info[key]!r:.80} instead of {wanted}: {ADVICE}")
    return info


def _conversion(folder: Path) -> str:
    """Command of lerobot that converts a data set in its place."""
    path = folder.absolute()
    options = f"--repo-id={path.name}", f"--root={path.parent}", "--push-to-hub=false"
    return shlex.join(["python", "-m", "lerobot.datasets.v30.convert_dataset_v21_to_v30", *options])


def _fps(folder: Path, info: Mapping[str, Any]) -> float:
    fps = info.get("fps")
    if type(fps) not in (int, float) or not 0 < fps < 1e6:  # type: ignore[operator]  # checked before
        raise GatoError(f"{folder / INFO} has fps {fps!r:.80}: {ADVICE}")
    return float(fps)  # type: ignore[arg-type]


def _feature(folder: Path, name: str, json: Any) -> Feature:
    try:
        return feature_from_json(name, json)
    except (ValueError, TypeError, LookupError) as error:
        raise GatoError(f"{folder / INFO}: {one_line(error)}: {ADVICE}") from error


def _row_bytes(features: Any) -> int:
    """Bytes of the numbers of a row."""
    numbers = [feature for feature in features if feature.dtype not in (*IMAGES, TEXT)]
    return sum(math.prod(feature.shape) * np.dtype(feature.dtype).itemsize for feature in numbers)


def _tasks(folder: Path) -> dict[int, str]:
    """Texts of the tasks by index; the column of the texts is the other one."""
    path = folder / TASKS
    if not path.is_file():
        raise GatoError(f"{path} is missing: {ADVICE}")
    with Table(path) as table:
        others = [name for name in table.names if name != "task_index"]
        if len(others) != 1:
            raise GatoError(f"{path} has columns {table.names!r:.80} instead of task_index and the tasks: {ADVICE}")
        rows = table.read(["task_index", *others])
        indices = from_arrow(Feature("task_index", "int64", (1,)), rows.column("task_index")).reshape(-1)
        texts = from_arrow(Feature(others[0], TEXT, (1,)), rows.column(others[0]))
    return dict(zip(indices.tolist(), texts.tolist(), strict=True))
