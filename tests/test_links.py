"""Symbolic links in the folders of commands: none is written through, and the error names the link."""

import gzip
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from gato_agent.cli import main
from gato_agent.envs.errors import UsageError
from gato_agent.envs.files import write_files
from gato_agent.rollouts.storage.episode_store import open_stores
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.paths import ROOT

COLLECT = "collect --env CartPole-v1 --expert random --episodes 2 --workers 0 --out {out}"
TRAIN = "train --data {made}/data --steps 2 --save-every 1 --batch-size 2 --num-threads 1 --holdout 0.5 --out {out}"
COMMANDS = {
    "collect": COLLECT,
    "collect with a rule": f"{COLLECT} --keep-above 0.5",
    "train": f"{TRAIN} --logger tensorboard",
    "evaluate": "evaluate --env CartPole-v1 --expert random --episodes 2 --out {out} --json {out}/more.json",
    "report": "report {made}/results --out {out} --workers 1",
    "play": "play --env CartPole-v1 --render video --video {out}/x.mp4 --json {out}/x.json",
    "info tasks": "info tasks --suite classic --json {out}/envs.json",
    "import": "data import {made}/minari/gato/CartPole-v1/random-v0 --out {out}",
    "import from LeRobot": "data import {made}/lerobot/gato/CartPole-v1-random --out {out}",
    "upgrade": "checkpoint upgrade {made}/former --out {out}",
}

LONG = ("evaluate", "report", "play")  # of which the slow tests are all

READ = (".lock", "task.json", "keep.json", "videos.json", "config.json", "results.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of the commands: episodes, results, data sets of Minari and LeRobot, and a former checkpoint."""
    pytest.importorskip("minari")
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("made")
    run(COLLECT, folder, folder / "data")
    run(COMMANDS["evaluate"], folder, folder / "results")
    run("data export {made}/data --out {made}/minari", folder, folder)
    run("data export {made}/data --format lerobot --out {made}/lerobot", folder, folder)
    former = gzip.decompress((ROOT / "tests" / "data" / "former" / "first.safetensors.gz").read_bytes())
    write_files({folder / "former" / "model.safetensors": former})
    return folder


def run(line: str, made: Path, out: Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(line.format(made=made, out=out)))
    return int(str(stopped.value.code))


def names(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files and folders after a command, without TensorBoard's, whose names contain the time."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if "tfevents" not in path.name]
    return [p for p in paths if (folder / p).is_file()], [p for p in paths if (folder / p).is_dir()]


@pytest.mark.parametrize(
    "name", [name if name not in LONG else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_no_command_writes_through_a_link(name: str, made: Path, tmp_path: Path, capsys: Any) -> None:
    line = COMMANDS[name]
    assert run(line, made, tmp_path / "clean") == 0
    files, folders = names(tmp_path / "clean")
    assert files
    victim, missing, elsewhere = tmp_path / "victim", tmp_path / "missing", tmp_path / "elsewhere"
    victim.write_bytes(b"mine")
    elsewhere.mkdir()

    def unharmed() -> bool:
        return victim.read_bytes() == b"mine" and not missing.exists() and not list(elsewhere.iterdir())

    locked = [file for file in files if file.suffix in (".jsonl", ".safetensors") or file.name in READ]
    others = [file for file in files if file not in locked]
    for target in (victim, missing):  # files that are replaced, and temporary names of all: the command goes on
        out = tmp_path / f"all-{target.name}"
        for file in files:
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            if file in others:
                (out / file).symlink_to(target)
            if file.name != ".lock":  # which is never written beside
                (out / file).with_name(f".{file.name}.partial").symlink_to(target)
        assert run(line, made, out) == 0
        assert unharmed()
        assert names(out)[0] == files
    for number, file in enumerate(locked):  # files that are read or locked first: replaced, or refused by name
        out = tmp_path / f"file-{number}"
        (out / file).parent.mkdir(parents=True)
        (out / file).symlink_to(missing)
        capsys.readouterr()
        assert run(line, made, out) == 0 or f"{file} is a link" in "".join(capsys.readouterr()), file
        assert unharmed(), file
    for number, folder in enumerate(folders):  # folders: refused by name
        out = tmp_path / f"folder-{number}"
        (out / folder).parent.mkdir(parents=True)
        (out / folder).symlink_to(elsewhere)
        capsys.readouterr()
        assert run(line, made, out) == 2, folder
        assert f"{folder} is a link, and links inside a folder are not followed" in capsys.readouterr().err
        assert unharmed(), folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_the_user_names_may_be_a_link(name: str, made: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert run(COMMANDS[name], made, tmp_path / "out") == 0
    assert names(tmp_path / "disk")[0]


@pytest.mark.parametrize(
    ("form", "places"),
    [("minari", ("gato", "gato/CartPole-v1")), ("lerobot", ("gato", "gato/CartPole-v1-random"))],
)
def test_an_export_writes_through_no_link(
    form: str, places: tuple[str, ...], made: Path, tmp_path: Path, capsys: Any
) -> None:
    root, elsewhere = tmp_path / form, tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).symlink_to(elsewhere)
        assert run(f"data export {{made}}/data --format {form} --out {root}", made, root) == 2
        assert "is a link, and links inside a folder are not followed" in capsys.readouterr().err
        assert not list(elsewhere.iterdir())
        (root / place).unlink()


def test_a_task_behind_a_link_is_read_and_neither_changed_nor_given_away(
    made: Path, tmp_path: Path, capsys: Any
) -> None:
    """Links combine several data sets for reading, but not for writing or exporting."""
    elsewhere, data = tmp_path / "elsewhere", tmp_path / "data"
    shutil.copytree(made / "data", elsewhere)
    data.mkdir()
    (data / "CartPole-v1").symlink_to(elsewhere / "CartPole-v1")
    before = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")}
    assert len(open_stores(data)) == 1 and verify(data) == (2, [])
    for verb in ("compact", f"export --out {tmp_path}/minari"):
        assert run(f"data {verb} {data}", made, data) == 2
        assert "CartPole-v1 is a link, and links inside a folder are not followed" in capsys.readouterr().err
    assert run(COLLECT, made, data) == 2
    assert {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")} == before
    for verb in ("compact", f"export --out {tmp_path}/minari"):
        assert run(f"data {verb} {data}/CartPole-v1", made, data) == 0  # the user named it


def test_links_among_the_files_of_a_task_are_not_read(made: Path, tmp_path: Path, capsys: Any) -> None:
    for name in sorted(path.name for path in (made / "data" / "CartPole-v1").iterdir() if path.name != ".lock"):
        folder = tmp_path / name
        shutil.copytree(made / "data" / "CartPole-v1", folder)
        (folder / name).unlink()
        (folder / name).symlink_to(made / "data" / "CartPole-v1" / name)
        for verb in (f"data verify {folder}", f"data show {folder}", f"train --data {folder} --out {tmp_path}/run"):
            assert run(verb, made, tmp_path) in (1, 2)
            output = capsys.readouterr()
            assert f"{name} is a link" in output.out + output.err


def test_a_pipe_among_the_episodes_is_not_waited_for(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    (tmp_path / "data" / "CartPole-v1" / "task.json").unlink()
    os.mkfifo(tmp_path / "data" / "CartPole-v1" / "task.json")
    assert run(f"data verify {tmp_path}/data", made, tmp_path) in (1, 2)
    assert run(f"data show {tmp_path}/data/CartPole-v1", made, tmp_path) == 2


def test_parts_of_a_sharded_state_are_never_behind_a_link(tmp_path: Path) -> None:
    from gato_agent.training import fsdp as sharded

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_bytes(b"mine")
    (tmp_path / "state-1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "state.json").write_text('{"step": 1, "folder": "state-1"}')
    with pytest.raises(UsageError, match="state-1 is a link"):
        sharded.saved(tmp_path)
    sharded._remove(tmp_path / "state-1")
    assert not (tmp_path / "state-1").is_symlink()
    assert (tmp_path / "elsewhere" / "x").read_bytes() == b"mine"
