"""`gato-agent data`: statistics are exact, and each damaged file is named."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gato_agent.cli import main
from gato_agent.envs.io.strict_json import checked_digest, with_digest
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from tests.helpers.paths import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of two tasks with ten compacted and two pending noisy episodes each."""
    for episodes, compact in ((10, True), (12, False)):
        collect(CollectConfig(
            env=("CartPole-v1", "MountainCarContinuous-v0"), expert="random", noise=True, episodes=episodes,
            compact=compact,
            workers=0, out=tmp_path / "data",
        ))  # fmt: skip
    return tmp_path / "data"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["data", *map(str, arguments)])
    return int(str(stop.value.code))


def test_show_gives_statistics_of_every_task(folder, capsys):
    capsys.readouterr()
    assert run("show", folder) == 0
    out = capsys.readouterr().out
    store, _ = open_stores(folder)
    steps = sum(store.stats(i).steps for i in range(12))
    noisy = sum(bool(store.stats(i).noise) for i in range(12))
    assert re.search(
        rf"CartPole-v1 +random +12 +12 +10 +{steps} +[\d.]+ +[\d.]+ +- +{noisy} \(0.05-0.3\) +0\.\d\d", out
    )
    assert "MountainCarContinuous-v0" in out


def test_verify_says_that_all_is_sound(folder, capsys):
    assert run("verify", folder) == 0
    assert f"24 episodes in {folder} are valid" in capsys.readouterr().out


def test_verify_names_every_damaged_file_with_the_way_out(folder, capsys):
    store, other = open_stores(folder)
    shard, pending = store.shard_paths()
    data = bytearray(shard.read_bytes())
    place = bytes(data).index(store.read(4).observations[""].tobytes())
    data[place] ^= 1
    pending.write_bytes(pending.read_bytes()[:-1] + b"?")
    shard.write_bytes(data)
    other.shard_paths()[0].write_bytes(b"")
    group = other.shard_paths()[1]
    group.write_bytes(group.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    assert run("verify", folder) == 1
    shown = capsys.readouterr()
    assert f"{pending} is truncated or damaged" in shown.out
    assert f"{shard}: episode 4 is damaged" in shown.out
    assert f"{other.shard_paths()[0]} is truncated or damaged" in shown.out
    assert f"{group} is truncated or damaged" in shown.out
    assert f"4 damaged files or episodes in {folder}, named above" in shown.err
    (other.folder / "task.json").write_text("{")
    assert run("verify", folder) == 1
    assert "task.json is damaged" in capsys.readouterr().out


def test_the_way_out_is_one(folder, capsys):
    store, _ = open_stores(folder)
    before = [store.read(i).to_bytes() for i in range(12)]
    shard, _ = store.shard_paths()
    shard.unlink()
    collect(CollectConfig(
        env=("CartPole-v1", "MountainCarContinuous-v0"), expert="random", noise=True, episodes=12, workers=0, out=folder
    ))  # fmt: skip
    store, _ = open_stores(folder)
    assert [store.read(i).to_bytes() for i in range(12)] == before
    assert run("verify", folder) == 0


def test_compact_joins_files_and_prints_their_size(folder, capsys):
    capsys.readouterr()
    assert run("compact", folder) == 0
    out = capsys.readouterr().out
    assert re.search(r"CartPole-v1: 12 episodes in 1 files, [\d.]+ MB, now [\d.]+ MB", out)
    store, _ = open_stores(folder)
    assert (store.pending(), store.indices()) == ([], list(range(12)))


def test_a_folder_in_use_is_not_compacted(folder, capsys):
    with EpisodeStore.open(folder / "CartPole-v1"):
        assert run("compact", folder) == 2
    assert "another `gato-agent collect` is writing to" in capsys.readouterr().err


def test_export_and_import(folder, tmp_path, capsys):
    pytest.importorskip("minari")
    assert run("export", folder / "CartPole-v1", "--out", tmp_path / "minari") == 0
    assert "CartPole-v1: 12 episodes exported as gato/CartPole-v1/random-v0" in capsys.readouterr().out
    source = tmp_path / "minari" / "gato" / "CartPole-v1" / "random-v0"
    assert run("import", source, "--out", tmp_path / "back") == 0
    assert "CartPole-v1: 12 episodes of" in capsys.readouterr().out
    assert run("verify", tmp_path / "back") == 0


@pytest.mark.parametrize("command", ["show", "verify", "compact", "export"])
def test_no_episodes_are_a_usage_error(tmp_path, capsys, command):
    assert run(command, tmp_path) == 2
    assert f"no episodes in {tmp_path}: make some with `gato-agent collect" in capsys.readouterr().err


def test_help_names_the_commands_and_is_quick():
    program = "import sys; from gato_agent.cli import main\ntry: main(['data', '--help'])\nexcept SystemExit: pass\n"
    program += "assert not {'torch', 'minari', 'stable_baselines3'} & set(sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True, env=os.environ
    ).stdout
    assert all(name in shown for name in ("show", "verify", "compact", "export", "import"))


@pytest.mark.parametrize("command", ["show", "compact", "export"])
def test_a_task_that_fails_does_not_keep_the_others_from_it(folder, tmp_path, capsys, command):
    """The error of one damaged task is raised; those of several are printed and counted."""
    shutil.copytree(folder / "CartPole-v1", folder / "Zoo-v0")
    for name in ("CartPole-v1", "Zoo-v0"):
        header = checked_digest((folder / name / "task.json").read_bytes())
        (folder / name / "task.json").write_bytes(with_digest(header | {"env_id": name}))
    out = ("--out", tmp_path / "minari") if command == "export" else ()
    (shard,) = [path for path in (folder / "CartPole-v1").iterdir() if "shard" in path.name]
    shard.write_bytes(shard.read_bytes()[:-100])
    capsys.readouterr()
    assert run(command, folder, *out) == 1
    shown = capsys.readouterr()
    assert "MountainCarContinuous-v0" in shown.out and "Zoo-v0" in shown.out
    assert f"{shard} is truncated or damaged" in shown.err
    (folder / "MountainCarContinuous-v0" / "task.json").write_text("{")
    assert run(command, folder, *out) == 1
    shown = capsys.readouterr()
    assert "Zoo-v0" in shown.out
    assert f"{shard} is truncated or damaged" in shown.out and "MountainCarContinuous-v0/task.json is dam" in shown.out
    assert f"2 of 3 tasks in {folder} failed, named above" in shown.err


def test_a_relative_folder_is_exported_to_and_once_more_changes_nothing(folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("export", folder / "CartPole-v1", "--out", "here") == 0
        assert "CartPole-v1: 12 episodes exported as gato/CartPole-v1/random-v0" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["gato"]


def test_the_former_name_of_compact_is_accepted_with_a_hint(folder, capsys):
    assert run("seal", folder) == 0
    assert "seal is called compact" in capsys.readouterr().err
    assert run("show", folder) == 0
