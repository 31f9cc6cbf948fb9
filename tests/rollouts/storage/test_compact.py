"""Compacted episodes are the same episodes in few files; after a kill or damage no loss is silent."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage import compact as module
from gato_agent.rollouts.storage import shard
from gato_agent.rollouts.storage.compact import compact, plan
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.shard import Shard, joined, open_arrays, pieces_of
from tests.helpers.episodes import HEADER, assert_equal, varied


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")


def fill(root: Path, *seeds: int) -> EpisodeStore:
    store = EpisodeStore.create(root, HEADER)
    store.commit([varied(seed).encode() for seed in seeds])
    return store


def test_compacted_and_pending_episodes_are_read_alike(tmp_path):
    with fill(tmp_path, *range(7), 100) as store:
        compact(store)
        assert names(store.folder) == ["00000000-00000100.shard.safetensors"]
        store.commit([varied(seed).encode() for seed in (50, 101)])
        assert store.indices() == [*range(7), 50, 100, 101]
        for seed in store.indices():
            assert store.read(seed).to_bytes() == varied(seed).to_bytes()
            assert store.stats(seed) == varied(seed).stats
    (opened,) = open_stores(tmp_path)
    assert [opened.read(seed).seed for seed in (3, 50)] == [3, 50]
    with pytest.raises(GatoError, match=r"has no episode 49: repeat the"):
        opened.read(49)


def test_what_is_where_depends_on_the_episodes_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 5 * varied(0).size)
    with fill(tmp_path / "once", *range(20)) as once:
        compact(once)
    parts = fill(tmp_path / "parts", 4, 5, 17)
    compact(parts)
    for more in (range(3), (3, *range(6, 12)), (*range(12, 17), 18, 19)):
        parts.commit([varied(seed).encode() for seed in more])
        compact(parts)
    assert names(parts.folder) == names(once.folder)
    assert len(names(once.folder)) == 4
    for name in names(once.folder):
        assert (parts.folder / name).read_bytes() == (once.folder / name).read_bytes()


def test_more_episodes_change_the_last_file_only(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 5 * varied(0).size)
    with fill(tmp_path, *range(12)) as store:
        compact(store)
        before = {path: path.stat().st_ino for path in sorted(store.folder.glob("*.shard.*"))}
        store.commit([varied(seed).encode() for seed in range(12, 20)])
        compact(store)
        kept = [path.name for path, inode in before.items() if path.exists() and path.stat().st_ino == inode]
        assert kept == names(store.folder)[: len(before) - 1]


def test_a_file_holds_so_many_bytes_or_one_episode():
    assert list(plan({3: 5, 1: 4, 2: 6, 7: 50, 9: 1}, 10)) == [[1, 2], [3], [7], [9]]
    assert list(plan({}, 10)) == []


@pytest.mark.parametrize("moment", range(9))
def test_killed_at_any_moment_nothing_is_lost_and_the_next_time_finishes_it(tmp_path, monkeypatch, moment):
    """The process is killed at each change to the folder."""
    monkeypatch.setattr(module, "SHARD_BYTES", 5 * varied(0).size)
    store = fill(tmp_path / "killed", *range(3))
    compact(store)
    store.commit([varied(seed).encode() for seed in range(3, 8)])
    changes = iter(range(moment))
    replaced, unlinked = Path.replace, Path.unlink

    def dying(change):
        def change_or_die(*arguments, **more):
            if next(changes, None) is None:
                raise KeyboardInterrupt
            return change(*arguments, **more)

        return change_or_die

    with monkeypatch.context() as dies:
        dies.setattr(Path, "replace", dying(replaced))
        dies.setattr(Path, "unlink", dying(unlinked))
        with suppress(KeyboardInterrupt):
            compact(store)
    store.close()
    (store,) = open_stores(tmp_path / "killed")
    assert [store.read(seed).to_bytes() for seed in store.indices()] == [varied(seed).to_bytes() for seed in range(8)]
    with EpisodeStore.open(store.folder) as again, fill(tmp_path / "undisturbed", *range(8)) as undisturbed:
        compact(again)
        compact(undisturbed)
        assert names(again.folder) == names(undisturbed.folder)
        for name in names(again.folder):
            assert (again.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


KILLS = int(os.environ.get("KILLS", "25"))
KILLED = """
import os, signal, sys
from pathlib import Path
from gato_agent.rollouts.storage import compact
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
compact.SHARD_BYTES = int(sys.argv[2])
calls = iter(range(int(sys.argv[3])))
def dying(event, arguments):
    if event in ("open", "os.rename", "os.remove") and sys.argv[1] in str(arguments[0]) and next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
folder, = [store.folder for store in open_stores(Path(sys.argv[1]))]
store = EpisodeStore.open(folder)
sys.addaudithook(dying)
compact.compact(store)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_the_episodes_and_the_next_makes_the_same_files(tmp_path, monkeypatch):
    """KILLS=25 pytest -n0 -m slow -k killed_process: at each file that is opened, renamed or removed."""
    size = 5 * varied(0).size
    monkeypatch.setattr(module, "SHARD_BYTES", size)
    with fill(tmp_path / "undisturbed", *range(20)) as undisturbed:
        compact(undisturbed)
    for moment in range(KILLS):
        folder = tmp_path / f"killed{moment}"
        store = fill(folder, *range(9))
        compact(store)
        store.commit([varied(seed).encode() for seed in range(9, 20)])
        store.close()
        command = [sys.executable, "-c", KILLED, str(folder), str(size), str(moment)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -9), done.stderr
        (store,) = open_stores(folder)
        assert store.indices() == list(range(20))
        assert all(store.read(seed).to_bytes() == varied(seed).to_bytes() for seed in range(20))
        with EpisodeStore.open(store.folder) as again:
            compact(again)
        for name in names(undisturbed.folder):
            assert (store.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()
        if done.returncode == 0:
            break
    assert moment > 8


def test_every_flipped_bit_is_noticed_when_it_matters(tmp_path):
    seeds, path = range(5), tmp_path / "x"
    data = joined([varied(seed).encode() for seed in seeds])
    whole = [varied(seed).to_bytes() for seed in seeds]
    rng = np.random.default_rng(0)
    for _ in range(1500):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            shard = Shard(path, bytes(damaged))
        except GatoError:
            continue
        for seed in seeds:
            with suppress(GatoError):
                assert shard.read(seed).to_bytes() == whole[seed]


def test_damage_is_named_with_the_way_out(tmp_path):
    data, path = joined([varied(seed).encode() for seed in range(3)]), tmp_path / "x"
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(GatoError, match=r"x is truncated or damaged.*delete it and repeat"):
            Shard(path)
    place = data.index(varied(1).observations["state/0"].tobytes())
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(GatoError, match=r"x: episode 0 is damaged.*delete it and repeat"):
        list(Shard(path))


def test_numbers_are_views_of_the_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(joined([varied(0).encode(), varied(1).encode()]))
    first = Shard(path).read(0)
    assert not first.rewards.flags.owndata
    assert not first.rewards.flags.writeable
    assert_equal(first.observations, varied(0).observations)


def test_episodes_of_other_kinds_do_not_go_together():
    other = replace(varied(1), rewards=np.ones(2), actions={"": np.ones((2, 3))}, labels=None)
    with pytest.raises(GatoError, match="episodes 0 to 1 differ in dtype or shape of actions/"):
        joined([replace(varied(0), labels=None).encode(), other.encode()])


def test_a_complete_task_is_compacted_and_more_may_follow(tmp_path, capsys):
    settings = {"env": ("CartPole-v1",), "expert": "random", "workers": 0}
    collect(CollectConfig(**settings, episodes=5, out=tmp_path / "a"))
    (store,) = open_stores(tmp_path / "a")
    assert names(store.folder) == ["00000000-00000004.shard.safetensors"]
    collect(CollectConfig(**settings, episodes=9, out=tmp_path / "a"))
    assert "CartPole-v1: 5 of 9 episodes are already collected" in capsys.readouterr().out
    assert names(store.folder) == ["00000000-00000008.shard.safetensors"]
    collect(CollectConfig(**settings, episodes=9, compact=False, out=tmp_path / "b"))
    (pending,) = open_stores(tmp_path / "b")
    assert pending.pending() == list(range(9))
    for seed in range(9):
        assert pending.read(seed).to_bytes() == store.read(seed).to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update({"table.provenance": np.full(3, 7, np.int32)}),
        lambda arrays: arrays.update({"table.provenance": np.full(3, -1, np.int32)}),
        lambda arrays: arrays.update({"table.seed": np.array([0, 0, 1])}),
        lambda arrays: arrays.update({"table.seed": np.array([2, 1, 0])}),
        lambda arrays: arrays.update({"table.crc": np.zeros(2, np.uint32)}),
        lambda arrays: arrays.update({"ends.rewards": arrays["ends.rewards"] * 2}),
        lambda arrays: arrays.update({"ends.rewards": arrays["ends.rewards"][::-1].copy()}),
        lambda arrays: arrays.update({"ends.rewards": arrays["ends.rewards"] - 10**12}),
        lambda arrays: arrays.pop("rewards"),
        lambda arrays: arrays.pop("ends.rewards"),
        lambda arrays: arrays.update({"ends.other": arrays["ends.rewards"]}),
    ],
)
def test_a_table_that_cannot_be_is_refused_though_its_checksum_fits(tmp_path, change):
    arrays, about = open_arrays(joined([varied(seed).encode() for seed in range(3)]))
    change(arrays)
    about["checksum"] = shard._table_checksum(arrays, {k: v for k, v in about.items() if k != "checksum"})
    with pytest.raises(GatoError, match=r"x is truncated or damaged"):
        Shard(tmp_path / "x", b"".join(pieces_of(arrays, about)))
