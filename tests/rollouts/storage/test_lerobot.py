"""Lossless export to LeRobot and import; foreign data sets; nothing in a data set runs code or reads other files."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from PIL import Image

from gato_agent.cli import main
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.spaces.flatten import leaves, stack
from gato_agent.envs.spaces.views import EVERYTHING
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import EpisodeFilter, write_filter
from gato_agent.rollouts.storage.verify import verify
from gato_agent.tokens.prompt import instruction_of
from tests.helpers.episodes import contents, stored
from tests.helpers.random_spaces import random_space, random_value

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from gato_agent.rollouts.storage.lerobot import exporting  # noqa: E402  # needs pyarrow
from gato_agent.rollouts.storage.lerobot.columns import arrow_type, to_arrow  # noqa: E402
from gato_agent.rollouts.storage.lerobot.dataset import LeRobotFiles  # noqa: E402
from gato_agent.rollouts.storage.lerobot.exporting import export  # noqa: E402
from gato_agent.rollouts.storage.lerobot.features import Feature  # noqa: E402
from gato_agent.rollouts.storage.lerobot.importing import import_  # noqa: E402
from gato_agent.rollouts.storage.lerobot.reading import EpisodeReader  # noqa: E402
from gato_agent.rollouts.storage.lerobot.tables import Table  # noqa: E402
from gato_agent.rollouts.storage.lerobot.writing import DatasetWriter  # noqa: E402

SPACE = Dict(
    image=Box(0, 255, (16, 20, 3), np.uint8),
    mission=Text(20),
    parts=Tuple((Discrete(5, start=2), MultiDiscrete([3, 4]))),
    state=Box(-np.inf, np.inf, (), np.float32),
)
ACTION = Dict(move=Box(-1, 1, (2,)), talk=Discrete(3))
ID = "gato/Thing-v0-sb3"
INFO, DATA = "meta/info.json", "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def made(seed: int, labels: bool = False, spaces: Any = (SPACE, ACTION)) -> Episode:
    rng = np.random.default_rng(seed)
    length = 2 + seed

    def columns(space: Any, rows: int) -> Any:
        return stack(space, [random_value(rng, space) for _ in range(rows)])

    return Episode(
        observations=columns(spaces[0], length + 1),
        actions=columns(spaces[1], length),
        labels=columns(spaces[1], length) if labels else None,
        rewards=rng.normal(size=length),
        terminated=seed % 2 == 0,
        truncated=seed % 2 == 1,
        success=(None, True, False)[seed % 3],
        seed=3 * seed,
        provenance={"noise": 0.3, "lost": True} if labels else {},
    )


fill = partial(stored, spaces=(SPACE, ACTION))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An exported data set of three episodes."""
    with fill(tmp_path / "data", *map(made, range(3))) as store:
        export(store, "gato", tmp_path / "lerobot")
    return tmp_path / "lerobot" / ID


def same(read: Episode, episode: Episode) -> bool:
    return replace(read, provenance=episode.provenance).to_bytes() == episode.to_bytes()


def test_there_and_back_nothing_changes(tmp_path):
    episodes = [made(seed, labels=seed == 1) for seed in range(4)]
    with fill(tmp_path / "data", *episodes) as store:
        assert export(store, "gato", tmp_path / "lerobot") == (ID, 4)
    with import_(tmp_path / "lerobot" / ID, tmp_path / "back") as back:
        assert back.env_id == "Thing-v0" and back.header["expert"]["kind"] == "lerobot"
        assert (back.observation_space, back.action_space) == (SPACE, ACTION)
        assert back.indices() == [0, 3, 6, 9]  # the seeds
        assert all(same(back.read(episode.seed), episode) for episode in episodes)
        assert back.read(3).provenance["noise"] == 0.3
        assert [back.stats(seed).lost for seed in (0, 3, 6, 9)] == [False, True, False, False]
    assert verify(tmp_path / "back") == (4, [])
    with import_(tmp_path / "lerobot" / ID, tmp_path / "back") as again:  # nothing is left to do
        assert again.indices() == [0, 3, 6, 9]


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(n, marks=pytest.mark.slow) for n in range(6, 60))])
def test_any_space_is_held_exactly_or_refused_by_name(tmp_path, seed):
    rng = np.random.default_rng(seed)
    spaces = random_space(rng), random_space(rng)
    episodes = [made(number, number == seed % 2, spaces) for number in range(2)]
    with fill(tmp_path / "data", *episodes, spaces=spaces) as store:
        try:
            export(store, "gato", tmp_path / "lerobot")
        except GatoError as error:
            assert re.match(rf"{ID}: (observation|action): the key '[/ab]*' cannot be part", str(error))  # noqa: PT017
            assert not (tmp_path / "lerobot").exists()
            return
    with import_(tmp_path / "lerobot" / ID, tmp_path / "back") as back:
        assert (back.observation_space, back.action_space) == spaces
        assert all(same(back.read(episode.seed), episode) for episode in episodes)


def test_features_have_lerobots_names_and_shapes(data):
    features = json.loads((data / INFO).read_text())["features"]
    found = {name: (each["dtype"], each["shape"]) for name, each in features.items()}
    assert found == {
        "observation.images.image": ("image", [16, 20, 3]),
        "observation.mission": ("string", [1]),
        "observation.parts.0": ("int64", [1]),
        "observation.parts.1": ("int64", [2]),
        "observation.state": ("float32", [1]),
        "action.move": ("float32", [2]),
        "action.talk": ("int64", [1]),
        "next.reward": ("float64", [1]),
        "next.done": ("bool", [1]),
        "timestamp": ("float32", [1]),
        **{name: ("int64", [1]) for name in ("frame_index", "episode_index", "index", "task_index")},
    }
    rows = pq.read_table(data / DATA)
    assert rows.column("index").to_pylist() == list(range(9))
    assert rows.column("frame_index").to_pylist() == [0, 1, 0, 1, 2, 0, 1, 2, 3]
    assert rows.column("next.done").to_pylist() == [False, True] + [False] * 2 + [True] + [False] * 3 + [True]
    np.testing.assert_allclose(rows.column("timestamp").to_numpy()[2:5], np.arange(3) / 30, rtol=1e-6)
    tasks = pq.read_table(data / "meta/tasks.parquet").column("__index_level_0__").to_pylist()
    read = [tasks[index] for index in rows.column("task_index").to_pylist()]
    assert read == rows.column("observation.mission").to_pylist()  # the text of each frame is its task


def test_statistics_are_those_of_all_frames(data):
    statistics = json.loads((data / "meta/stats.json").read_text())
    rows = pq.read_table(data / DATA)
    for name in ("observation.state", "action.talk", "next.reward", "index"):
        values = np.array(rows.column(name).to_pylist(), np.float64)
        wanted = {"min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std(), "count": 9}
        for key, value in wanted.items():
            np.testing.assert_allclose(statistics[name][key], [value], rtol=1e-9, atol=1e-12)
    assert np.shape(statistics["observation.images.image"]["mean"]) == (3, 1, 1)
    assert np.min(statistics["observation.images.image"]["min"]) >= 0
    assert np.max(statistics["observation.images.image"]["max"]) <= 1


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Dict({"a.b": Discrete(2), "a": Dict(b=Discrete(2))}), "'a.b' and 'a/b' would both be the feature"),
        (Dict({"joint/left": Discrete(2)}), "the key 'joint/left' cannot be part of a feature's name"),
        (Dict({"deep": Tuple([Dict({"": Discrete(2)})])}), "the key '' cannot be part of a feature's name"),
        (Dict({"a\0": MultiBinary(2)}), r"the key 'a\\x00' cannot be part"),
        (Box(-1, 1, (1,) * 6), r"has shape \(1, 1, 1, 1, 1, 1\) of float32, which LeRobot cannot hold"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_space_that_features_cannot_hold_is_refused_by_name(tmp_path, space, message, place):
    spaces = [SPACE, ACTION]
    spaces[place] = space
    with (
        fill(tmp_path / "data", made(0, spaces=spaces), spaces=spaces) as store,
        pytest.raises(GatoError, match=rf"^{ID}: (observation|action).*{message}"),
    ):
        export(store, "gato", tmp_path / "lerobot")
    assert not (tmp_path / "lerobot").exists()


def test_only_what_the_filter_keeps_is_exported(tmp_path):
    with fill(tmp_path / "data", *map(made, range(3))) as store:
        write_filter(store, EpisodeFilter(success_only=True))
        assert export(store, "gato", tmp_path / "lerobot") == (ID, 1)
    with import_(tmp_path / "lerobot" / ID, tmp_path / "back") as back:
        assert back.indices() == [3]


def test_equal_episodes_are_equal_files(tmp_path, data):
    with fill(tmp_path / "again", *map(made, range(3))) as store:
        export(store, "gato", tmp_path / "second")
    assert contents(tmp_path / "second" / ID) == contents(data)


def test_a_data_set_that_is_there_is_not_overwritten(tmp_path, data):
    before = contents(data)
    with EpisodeStore.open(tmp_path / "data" / "Thing-v0") as store:
        assert export(store, "gato", tmp_path / "lerobot") == (ID, 3)  # it is what was asked for
        store.commit([made(5).encode()])
        with pytest.raises(UsageError, match=rf"{ID}: a data set already exists.*another --namespace"):
            export(store, "gato", tmp_path / "lerobot")
        assert contents(data) == before
        assert export(store, "other", tmp_path / "lerobot") == ("other/Thing-v0-sb3", 4)


KILLED = """
import os, signal, sys
from pathlib import Path
from gato_agent.rollouts.storage.lerobot import exporting
from gato_agent.rollouts.storage.episode_store import open_stores
calls = iter(range(int(sys.argv[2])))
def dying(event, arguments):
    if event in ("open", "os.rename", "os.mkdir") and "lerobot/" in str(arguments[0]) and next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
store, = open_stores(Path(sys.argv[1]))
root = Path(sys.argv[1]).parent / "lerobot"
root.mkdir()
sys.addaudithook(dying)
exporting.export(store, "gato", root)
"""


@pytest.mark.parametrize("moment", [9, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 4, 14, 1000))])
def test_killed_at_any_moment_an_export_leaves_nothing_in_the_way(tmp_path, moment):
    with fill(tmp_path / "data", *map(made, range(2))) as store:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(moment)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == (0 if moment == 1000 else -9), done.stderr
        target = tmp_path / "lerobot" / ID
        there = contents(target) if target.exists() else None  # only a compared data set has its place
        assert export(store, "gato", tmp_path / "lerobot") == (ID, 2)
        assert there in (None, contents(target))
        assert [path.name for path in (tmp_path / "lerobot").iterdir()] == ["gato"]


def test_what_does_not_read_back_gets_no_place(tmp_path, monkeypatch):
    class Other(EpisodeReader):
        def read(self, number: int) -> Episode:
            return replace(super().read(number), terminated=False)

    monkeypatch.setattr(exporting, "EpisodeReader", Other)
    with (
        fill(tmp_path / "data", made(2)) as store,
        pytest.raises(GatoError, match=f"{ID}: LeRobot does not hold episode 6 of Thing-v0 exactly"),
    ):
        export(store, "gato", tmp_path / "lerobot")
    assert not contents(tmp_path / "lerobot")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "there")

    monkeypatch.setattr(DatasetWriter, "add", full)
    with (
        fill(tmp_path / "data", made(0)) as store,
        pytest.raises(GatoError, match=f"{ID} cannot be written: .*No space left on device"),
    ):
        export(store, "gato", tmp_path / "lerobot")
    assert not contents(tmp_path / "lerobot")


def smooth(shape: tuple[int, int], length: int) -> np.ndarray:
    """Images of a gradient that moves, uint8 [length, height, width, 3]."""
    rows, columns = np.indices(shape)
    return np.stack([np.stack([rows * 3 + 8 * t, columns * 3, rows + columns], -1) for t in range(length)]).astype(
        np.uint8
    )


@pytest.mark.parametrize("shape", [(48, 64), pytest.param((41, 43), marks=pytest.mark.slow)])
def test_videos_are_lossy_and_nothing_else_is(tmp_path, shape):
    spaces = Dict(image=Box(0, 255, (*shape, 3), np.uint8), state=Box(-1, 1, (3,))), Discrete(3)
    episodes = [made(seed, spaces=spaces) for seed in range(4)]
    for episode in episodes:
        episode.observations["image"] = smooth(shape, len(episode) + 1)
    with fill(tmp_path / "data", *episodes, spaces=spaces) as store:
        export(store, "gato", tmp_path / "lerobot", fps=7, video=True)
        assert export(store, "gato", tmp_path / "lerobot", video=True)[1] == 4
        with pytest.raises(UsageError, match="already exists"):
            export(store, "gato", tmp_path / "lerobot")
    with import_(tmp_path / "lerobot" / ID, tmp_path / "back") as back:
        for episode in episodes:
            read = back.read(episode.seed)
            error = abs(read.observations["image"].astype(int) - episode.observations["image"])
            assert error.mean() < 4 and not error[-1].any()  # frames in their places; the last one is PNG
            read.observations["image"] = episode.observations["image"]
            assert same(read, episode)


def test_images_of_one_or_four_channels_are_no_videos(tmp_path):
    spaces = Box(0, 255, (16, 16, 1), np.uint8), Discrete(2)
    with fill(tmp_path / "data", made(0, spaces=spaces), spaces=spaces) as store:
        with pytest.raises(GatoError, match=r"observation.image has 1 channels, and a video has 3: export without"):
            export(store, "gato", tmp_path / "lerobot", video=True)
        assert export(store, "gato", tmp_path / "lerobot")[1] == 1


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(data: Path) -> None:
        info = json.loads((data / INFO).read_text())
        change(info)
        (data / INFO).write_text(json.dumps(info))

    return apply


def rewritten(name: str, column: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(data: Path) -> None:
        table = pq.read_table(data / name)
        array = change(table.column(column).combine_chunks())
        index = table.schema.get_field_index(column)
        pq.write_table(table.set_column(index, column, array), data / name)

    return apply


def removed(name: str) -> Callable[[Path], None]:
    return lambda data: (data / name).unlink()


def linked(name: str) -> Callable[[Path], None]:
    def apply(data: Path) -> None:
        (data / name).rename(data.parent / "elsewhere")
        (data / name).symlink_to(data.parent / "elsewhere")

    return apply


def bomb(data: Path) -> None:
    """Rows of one value, of which a few bytes are stored."""
    table = pa.table({"index": pa.array(np.zeros(3 * 10**7, np.int64))})
    pq.write_table(table, data / DATA)


PICTURE = "observation.images.image"
HUGE = {"kind": "MultiBinary", "n": 10**12}
VIDEO = {"dtype": "video", "shape": [16, 16, 3]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed(lambda info: info.update(codebase_version="v2.1")),
            r"version 'v2.1', .*: convert it .*_v30 --repo-id=Thing-v0-sb3 --root=/.*/gato --push-to-hub=false`",
        ),
        (changed(lambda info: info.update(codebase_version="v4.0")), "'v4.0', and v3.0 is read: get it in v3.0"),
        (changed(lambda info: info.update(codebase_version=None)), "version None, and v3.0 is read"),
        (changed(lambda info: info.update(data_path="{chunk_index.__class__}")), "data_path '{chunk_index.__class__}'"),
        (changed(lambda info: info.update(video_path="/etc/{file_index}")), "video_path '/etc/{file_index}' instead"),
        (changed(lambda info: info.update(total_episodes=10**12)), "total_episodes 1000000000000, and 3 exist"),
        (changed(lambda info: info.update(total_episodes="3")), "total_episodes '3', and 3 exist"),
        (changed(lambda info: info.update(fps=0)), "fps 0: export or download"),
        (changed(lambda info: info["features"].update({"../x": VIDEO})), "no file's"),
        (changed(lambda info: info["features"].update(x={"dtype": "object", "shape": [1]})), "of 'object'"),
        (changed(lambda info: info["features"].update(x={"dtype": "int8", "shape": [-1]})), r"has shape \(-1,\)"),
        (changed(lambda info: info["features"].update(x=7)), "the feature 'x' is no object"),
        (changed(lambda info: info["features"]["action.move"].update(dtype="image")), r"has shape \(2,\)"),
        (changed(lambda info: info["gato"].update(action_space=HUGE)), "its spaces are"),
        (lambda data: (data / INFO).write_text("{"), "info.json is damaged"),
        (lambda data: (data / INFO).write_text('{"features": []}'), "info.json lacks features"),
        (lambda data: (data / DATA).write_bytes(b"PAR1"), "file-000.parquet is damaged"),
        (lambda data: (data / EPISODES).write_bytes(b"nothing"), "file-000.parquet is damaged"),
        (removed("meta/tasks.parquet"), "tasks.parquet is missing"),
        (removed(EPISODES), "total_episodes 3, and 0 exist"),
        (removed(DATA), "none of 3 episodes are valid: episode 0: .*file-000.parquet"),
        (linked(DATA), "is a link to .*elsewhere, which is not followed"),
        (linked("meta/info.json"), "is a link to .*elsewhere, which is not followed"),
        (bomb, "declares 30,000,000 rows of"),
        (rewritten(DATA, "episode_index", lambda a: pa.array([7] * len(a))), "are not those of episode 0"),
        (rewritten(DATA, "frame_index", lambda a: pa.array([0] * len(a))), "are not those of episode 0"),
        (rewritten(DATA, "action.move", lambda a: pa.array([[0.0]] * len(a))), r"rows of another shape than \(2,\)"),
        (rewritten(DATA, "action.talk", lambda a: pa.array([None] * len(a), pa.int64())), "values are missing"),
        (rewritten(DATA, "action.talk", lambda a: pa.array(["x"] * len(a))), "values of string instead of int64"),
        (rewritten(DATA, "next.reward", lambda a: pa.array([np.nan] * len(a))), "rewards, step 0: nan"),
        (rewritten(EPISODES, "length", lambda a: pa.array([10**12] * len(a))), "and length 1,000,000"),
        (rewritten(EPISODES, "dataset_to_index", lambda a: pa.array([10**12] * len(a))), "rows 0 to 1,000,0"),
        (rewritten(EPISODES, "data/chunk_index", lambda a: pa.array([-1] * len(a))), "episode 0 has rows"),
        (rewritten(EPISODES, "episode_index", lambda a: pa.array([0] * len(a))), "total_episodes 3, and 3 exist"),
    ],
)  # fmt: skip
def test_a_damaged_data_set_is_one_line_and_leaves_nothing(tmp_path, data, change, message):
    change(data)
    with pytest.raises(GatoError, match=message) as error:
        import_(data, tmp_path / "back")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "back").exists()


def encoded(kind: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ({"bytes": None, "path": "/etc/hostname"}, "an image without bytes; files that a data set names are not read"),
        ({"bytes": encoded("PNG", (4000, 3000)), "path": None}, "an image of 4000 x 3000 instead of 20 x 16"),
        ({"bytes": encoded("EPS", (20, 16)), "path": None}, "UnidentifiedImageError"),
        ({"bytes": b"", "path": None}, "UnidentifiedImageError"),
    ],
)
def test_only_png_and_jpeg_of_the_features_size_are_decoded(tmp_path, data, monkeypatch, picture, message):
    """Pillow starts another program for the format EPS."""
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    rewritten(DATA, PICTURE, lambda array: pa.array([picture] * len(array), array.type))(data)
    with pytest.raises(GatoError, match=f"none of 3 episodes are valid: episode 0: .*{message}"):
        import_(data, tmp_path / "back")
    assert not started


def test_a_playlist_in_place_of_a_video_is_not_followed(tmp_path):
    """ffmpeg would open the files and addresses of a playlist."""
    spaces = Box(0, 255, (16, 16, 3), np.uint8), Discrete(2)
    with fill(tmp_path / "data", made(0, spaces=spaces), spaces=spaces) as store:
        export(store, "gato", tmp_path / "lerobot", video=True)
    (path,) = (tmp_path / "lerobot").rglob("*.mp4")
    video = path.rename(tmp_path / "secret.mp4")
    path.write_text(f"ffconcat version 1.0\nfile {video}\n")
    with pytest.raises(GatoError, match=r"file-000\.mp4 cannot be decoded as MP4"):
        import_(tmp_path / "lerobot" / ID, tmp_path / "back")
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n")
    with pytest.raises(GatoError, match=r"file-000\.mp4 cannot be decoded as MP4"):
        import_(tmp_path / "lerobot" / ID, tmp_path / "back")
    path.unlink()
    with pytest.raises(GatoError, match=r"file-000\.mp4 is missing"):
        import_(tmp_path / "lerobot" / ID, tmp_path / "back")


def foreign(folder: Path, *, rows: dict[str, Any] | None = None, **features: Any) -> Path:
    """A data set in the form that LeRobot writes: no spaces, no last observation, and a task for each episode."""
    described = {
        "observation.state": Feature("observation.state", "float32", (3,)),
        "observation.images.top": Feature("observation.images.top", "video", (32, 48, 3)),
        "action": Feature("action", "float32", (2,)),
    } | features
    writer = DatasetWriter(folder, list(described.values()), 10)
    for number in range(3):
        rng = np.random.default_rng(number)
        columns = {
            "observation.state": rng.uniform(-5, 5, (6, 3)).astype(np.float32),
            "observation.images.top": smooth((32, 48), 6),
            "action": rng.uniform(-90, 90, (6, 2)).astype(np.float32),
        } | (rows or {})
        writer.add(columns, [f"put block {number % 2} down"] * 6, {})
    writer.close({})
    return folder


def test_a_foreign_data_set_has_spaces_of_its_features_and_the_task_as_instruction(tmp_path):
    folder = foreign(tmp_path / "robot")
    with pytest.raises(UsageError, match="names no environment that could be used: give an id with --env"):
        import_(folder, tmp_path / "back")
    with import_(folder, tmp_path / "back", "Arm-v0", image_size=(16, 24)) as store:
        assert [leaf.path for leaf in leaves(store.observation_space)] == ["instruction", "state", "top"]
        assert store.observation_space["top"] == Box(0, 255, (16, 24, 3), np.uint8)
        assert instruction_of("Arm-v0", store.observation_space, EVERYTHING) == "instruction"
        assert store.indices() == [0, 1, 2]
        actions = np.concatenate([store.read(number).actions[""] for number in range(3)])
        assert store.action_space == Box(actions.min(0), actions.max(0), dtype=np.float32)
        for number in range(3):
            episode = store.read(number)
            assert len(episode) == 6 and episode.truncated and not episode.terminated and episode.success is None
            assert set(episode.observations["instruction"]) == {f"put block {number % 2} down"}
            rng = np.random.default_rng(number)
            state = rng.uniform(-5, 5, (6, 3)).astype(np.float32)
            np.testing.assert_array_equal(episode.observations["state"], [*state, state[-1]])
            assert episode.provenance["final_observation"] == "a copy of the last one"
            assert episode.provenance["rewards"] == "unknown" and not episode.rewards.any()


@pytest.mark.parametrize(
    ("flags", "ends"),
    [
        ({"next.done": True}, (True, False, None)),
        ({"next.done": False}, (False, True, None)),
        ({"next.done": True, "next.truncated": True}, (False, True, None)),
        ({"next.terminated": True, "next.truncated": True}, (True, True, None)),
        ({"next.terminated": False, "next.done": True}, (False, True, None)),
        ({"next.success": True}, (False, True, True)),
        ({"next.success": False, "next.done": True}, (True, False, False)),
    ],
)
def test_ends_rewards_and_success_of_a_foreign_data_set_are_kept(tmp_path, flags, ends):
    features = {name: Feature(name, "bool", (1,)) for name in flags} | {
        "next.reward": Feature("next.reward", "float32", (1,))
    }
    rows = {name: np.arange(6) == (5 if flag else 6) for name, flag in flags.items()}
    rows["next.reward"] = np.linspace(0, 1, 6, dtype=np.float32)
    folder = foreign(tmp_path / "robot", rows=rows, **features)
    with import_(folder, tmp_path / "back", "Arm-v0") as store:
        episode = store.read(1)
        assert (episode.terminated, episode.truncated, episode.success) == ends
        np.testing.assert_array_equal(episode.rewards, rows["next.reward"].astype(np.float64))
        assert "rewards" not in episode.provenance


def test_whole_numbers_are_discrete_actions_and_several_actions_a_dict(tmp_path):
    wide = {"action": np.array([0, 3, 1, 2, 0, 1])}
    folder = foreign(tmp_path / "one", rows=wide, action=Feature("action", "int64", (1,)))
    with import_(folder, tmp_path / "a", "Arm-v0") as store:
        assert store.action_space == Discrete(4)
        assert store.read(0).actions[""].tolist() == wide["action"].tolist()
    several = {
        "action.arm": Feature("action.arm", "float32", (2,)),
        "action.hand": Feature("action.hand", "int64", (1,)),
    }
    rows = {"action.arm": np.ones((6, 2), np.float32), "action.hand": wide["action"]}
    folder = foreign(tmp_path / "two", rows=rows, **several)
    info = json.loads((folder / INFO).read_text())
    del info["features"]["action"]
    (folder / INFO).write_text(json.dumps(info))
    with import_(folder, tmp_path / "b", "Arm-v0") as store:
        assert store.action_space == Dict(arm=Box(1, 1, (2,)), hand=Discrete(4))


def test_the_user_says_the_spaces(tmp_path):
    folder = foreign(tmp_path / "robot")
    spaces = (
        Dict(mission=Text(40), state=Box(-10, 10, (3,)), top=Box(0, 255, (16, 24, 3), np.uint8)),
        Box(-180, 180, (2,), np.float32),
    )
    fill(tmp_path / "mine", made(0, spaces=spaces), spaces=spaces).close()
    with import_(folder, tmp_path / "back", "Thing-v0", spaces=tmp_path / "mine" / "Thing-v0") as store:
        assert (store.observation_space, store.action_space) == spaces
        assert store.read(1).observations["mission"][0] == "put block 1 down"
    others = Dict(mission=Text(40), wrist=Box(-10, 10, (3,))), spaces[1]
    fill(tmp_path / "other", made(0, spaces=others), spaces=others).close()
    with pytest.raises(UsageError, match=r"no feature observation.wrist for the leaf 'wrist', and it has action, "):
        import_(folder, tmp_path / "third", "Thing-v0", spaces=tmp_path / "other" / "Thing-v0")
    narrow = spaces[0], Box(-1, 1, (2,), np.float32)
    fill(tmp_path / "narrow", made(0, spaces=narrow), spaces=narrow).close()
    with pytest.raises(GatoError, match=r"none of 3 episodes are valid: .* step 0: .* beyond its bounds"):
        import_(folder, tmp_path / "third", "Thing-v0", spaces=tmp_path / "narrow" / "Thing-v0")


def test_a_data_set_without_actions_or_observations_is_refused_by_name(tmp_path):
    folder = foreign(tmp_path / "robot")
    table = pq.read_table(folder / DATA)
    pq.write_table(table.rename_columns({"action": "motors"}), folder / DATA)
    changed(lambda info: info["features"].update(motors=info["features"].pop("action")))(folder)
    message = (
        r"begins with action, and it has episode_index, .*: rename columns in data/ and their entries in meta/info"
    )
    with pytest.raises(UsageError, match=message):
        import_(folder, tmp_path / "back", "Arm-v0")
    pq.write_table(table.rename_columns({"action": "action.motors"}), folder / DATA)
    changed(lambda info: info["features"].update({"action.motors": info["features"].pop("motors")}))(folder)
    with import_(folder, tmp_path / "back", "Arm-v0") as store:
        assert isinstance(store.action_space, Dict) and store.indices() == [0, 1, 2]


@pytest.mark.parametrize("length", [3, 256, 1000])
def test_texts_of_any_length_are_observed(tmp_path, length):
    note = Feature("observation.note", "string", (1,))
    texts = np.array(["\N{SNOWMAN}" * length] * 6, dtype=object)
    folder = foreign(tmp_path / "robot", rows={note.name: texts}, **{note.name: note})
    with import_(folder, tmp_path / "back", "Arm-v0") as store:
        assert store.observation_space["note"].max_length == max(256, length)
        assert store.read(2).observations["note"].tolist() == [texts[0]] * 7


def test_each_column_is_read_once(tmp_path, data, monkeypatch):
    """The descriptions of all episodes are one row group, of which each episode reads a row."""
    names: list[str] = []

    def counted(table: Table, groups: Any, columns: Any) -> Any:
        names.extend(f"{table.path}: {groups}: {column}" for column in columns)
        return original(table, groups, columns)

    original = Table._groups
    monkeypatch.setattr(Table, "_groups", counted)
    files = LeRobotFiles(data)
    for _ in range(2):
        for number in files.episodes:
            assert files.about(number, "gato/seed") == 3 * number
            assert files.final(number, files.features[PICTURE]).shape == (1, 16, 20, 3)
    files.close()
    assert len(names) == len(set(names))


def test_an_invalid_episode_is_left_out_by_name(tmp_path):
    folder, said = foreign(tmp_path / "robot"), []
    broken = rewritten(DATA, "action", lambda a: pa.array([[0.0, np.nan]] * 6 + a.to_pylist()[6:], a.type))
    broken(folder)
    with import_(folder, tmp_path / "back", "Arm-v0", say=said.append) as store:
        assert store.indices() == [1, 2]
    assert said == [f"{folder}: episode 0 is left out: actions, step 0: element [1] is nan, not a finite number"]


@pytest.mark.parametrize("name", ["action", "observation.note"])
def test_a_missing_value_leaves_out_its_episode_alone(tmp_path, name):
    note, texts = Feature("observation.note", "string", (1,)), np.array(["a"] * 6, dtype=object)
    folder, said = foreign(tmp_path / "robot", rows={note.name: texts}, **{note.name: note}), []
    rewritten(DATA, name, lambda a: pa.array([None] * 6 + a.to_pylist()[6:], a.type))(folder)
    with import_(folder, tmp_path / "back", "Arm-v0", say=said.append) as store:
        assert store.indices() == [1, 2]
    assert said == [f"{folder}: episode 0 is left out: {name}: 6 values are missing"]
    rewritten(DATA, name, lambda a: pa.array([None] * len(a), a.type))(folder)
    with pytest.raises(GatoError, match=f"{name}: 6 values are missing"):
        import_(folder, tmp_path / "none", "Arm-v0")


def test_columns_of_all_types_are_the_same_in_arrow():
    for feature in (Feature("a", "float16", (2, 3)), Feature("b", "bool", (1,)), Feature("c", "uint64", (4,))):
        column = np.ones((2, *feature.shape), feature.dtype)
        assert to_arrow(feature, column).type == arrow_type(feature)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["data", *map(str, words)])
    return int(str(stop.value.code))


def test_the_command_line_goes_there_and_back(tmp_path, capsys):
    fill(tmp_path / "data", made(0), made(2)).close()
    assert run("export", tmp_path / "data", "--format", "lerobot", "--out", tmp_path / "lerobot") == 0
    assert f"2 episodes exported as {ID}" in capsys.readouterr().out
    assert run("import", tmp_path / "lerobot" / ID, "--out", tmp_path / "back") == 0
    assert "Thing-v0: 2 episodes of" in capsys.readouterr().out
    assert run("import", tmp_path / "data", "--out", tmp_path / "x", "--image-size", "8", "8") == 2
    assert "--spaces and --image-size are for LeRobot data sets" in capsys.readouterr().err
    assert run("export", tmp_path / "data", "--format", "lerobot", "--fps", "0", "--out", tmp_path / "y") == 2
    assert "--fps 0: it must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fps", "7"], "--fps is for --format lerobot: leave it out, or add --format lerobot"),
        (["--video"], "--video is for --format lerobot"),
        (["--format", "lerobot", "--author", "me"], "--author is for --format minari: leave it out, or add --format m"),
        (["--format", "lerobot", "--author-email", "me@example.org"], "--author-email is for --format minari"),
        (["--format", "lerobot", "--code-permalink", "https://example.org"], "--code-permalink is for --format minari"),
    ],
)
def test_options_of_the_other_format_are_refused(tmp_path, capsys, words, message):
    fill(tmp_path / "data", made(0)).close()
    assert run("export", tmp_path / "data", "--out", tmp_path / "x", *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()


def test_without_pyarrow_the_extra_is_named(tmp_path):
    fill(tmp_path / "data", made(0)).close()
    code = "import sys; sys.modules['pyarrow'] = None; from gato_agent.cli import main; main(sys.argv[1:])"
    words = ["data", "export", str(tmp_path / "data"), "--format", "lerobot", "--out", str(tmp_path / "lerobot")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pyarrow is missing" in done.stderr and "pip install 'gato-agent[lerobot]'" in done.stderr


def test_files_are_closed_after_an_error(tmp_path, data):
    (data / DATA).write_bytes(b"PAR1")
    files = LeRobotFiles(data)
    with pytest.raises(GatoError):
        files.columns(0, [])
    files.close()
    shutil.rmtree(data)
