"""The store of episodes: whole files, one writer, one set of settings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary

from gato_agent.envs import files
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.spaces.flatten import space_to_json
from gato_agent.rollouts.storage.compression import Encoded
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.shard import joined
from gato_agent.rollouts.storage.task_folder import folder_of
from gato_agent.rollouts.storage.validate import check_learnable
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.episodes import HEADER, SPACES


def episode(seed: int) -> Episode:
    observations = {"": np.full((2, 2), seed / 10, np.float32)}
    return Episode(observations, {"": np.array([seed % 3])}, None, np.ones(1), True, False, None, seed)


def group_of(*seeds: int) -> list[Encoded]:
    return [episode(seed).encode() for seed in seeds]


def test_what_is_committed_is_read_back(tmp_path):
    with EpisodeStore.create(tmp_path, HEADER) as store:
        assert store.indices() == []
        store.commit(group_of(3, 1))
        store.commit(group_of(123_456_789))
    (opened,) = open_stores(tmp_path)
    assert opened.indices() == [1, 3, 123_456_789]
    assert opened.read(3).to_bytes() == episode(3).to_bytes()
    assert (opened.env_id, opened.env_kwargs) == ("ALE/Pong-v5", {"frameskip": 4})
    assert (opened.observation_space, opened.action_space) == SPACES
    assert opened.header["noise"] is False


def test_folders_have_names_that_any_file_system_takes(tmp_path):
    assert folder_of(tmp_path, "ALE/Pong-v5").name == "ALE%2FPong-v5"


def test_the_folder_itself_survives_a_crash(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    EpisodeStore.create(tmp_path / "data", HEADER).close()
    assert synced == [tmp_path, tmp_path / "data", tmp_path / "data" / "ALE%2FPong-v5"]


@pytest.mark.parametrize(
    "env_id",
    ["mine:Env-v0", "", ".", "..", "../up", "a//b", "/etc", "Env-v0\n", "E\0-v0", "%2e", "\ud800", ["Env-v0"], None],
)
def test_no_header_names_a_module_to_import_or_another_folder(tmp_path, env_id):
    with pytest.raises(UsageError, match="is no environment's registered id, such as CartPole-v1"):
        EpisodeStore.create(tmp_path / "data", HEADER | {"env_id": env_id})
    assert not list(tmp_path.iterdir())
    (tmp_path / "task.json").write_text(json.dumps({"format": 1, **HEADER, "env_id": env_id}))
    with pytest.raises(GatoError, match=r"task\.json has env_id .*, which no file may name: restore it"):
        open_stores(tmp_path)


@pytest.mark.parametrize("env_id", ["D4RL/door/human-v2", "A.b-v0", "..thing", "\u00e9-v1"])
def test_every_registered_id_is_a_folder_below(tmp_path, env_id):
    EpisodeStore.create(tmp_path / "data", HEADER | {"env_id": env_id}).close()
    assert [store.env_id for store in open_stores(tmp_path / "data")] == [env_id]
    assert [path.parent.parent for path in tmp_path.rglob("task.json")] == [tmp_path / "data"]


def test_other_arguments_may_make_another_observation_than_the_catalogue_views():
    check_learnable("ALE/Breakout-v5", Box(0, 255, (128,), np.uint8), Discrete(4))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("parent", [Box, Discrete, MultiBinary])
def test_a_subclass_of_a_space_is_refused_with_the_environments_name(parent, place):
    arguments = {Box: (0, 1, (2,)), Discrete: (3,), MultiBinary: (2,)}[parent]
    spaces = [Discrete(2), Discrete(2)]
    spaces[place] = type("Own", (parent,), {})(*arguments)
    with pytest.raises(UsageError, match=r"^Own-v0: its episodes cannot be stored: Own spaces are not supported: wrap"):
        check_learnable("Own-v0", *spaces)


def test_the_same_content_gives_the_same_files(tmp_path):
    for root in ("a", "b"):
        with EpisodeStore.create(tmp_path / root, HEADER) as store:
            store.commit(group_of(0, 1))
    a, b = (sorted((tmp_path / root).rglob("*")) for root in "ab")
    assert [p.name for p in a] == [p.name for p in b]
    assert all(x.read_bytes() == y.read_bytes() for x, y in zip(a, b, strict=True) if x.is_file())


def test_open_stores_finds_all_of_a_root_or_the_one_named(tmp_path):
    for env_id in ("B-v0", "A-v0"):
        EpisodeStore.create(tmp_path, HEADER | {"env_id": env_id}).close()
    (tmp_path / "experts" / "A-v0").mkdir(parents=True)
    assert [store.env_id for store in open_stores(tmp_path)] == ["A-v0", "B-v0"]
    assert [store.env_id for store in open_stores(tmp_path / "B-v0")] == ["B-v0"]


def test_no_episodes_at_all_names_the_folder_and_the_command(tmp_path):
    for call in (open_stores, EpisodeStore):
        with pytest.raises(UsageError, match=f"no episodes in {tmp_path}.*gato-agent collect"):
            call(tmp_path)


def test_a_second_collector_is_refused_and_the_first_goes_on(tmp_path):
    with EpisodeStore.create(tmp_path, HEADER) as store:
        with pytest.raises(UsageError, match=r"another `gato-agent collect` is writing to .*ALE%2FPong-v5"):
            EpisodeStore.create(tmp_path, HEADER)
        assert open_stores(tmp_path)[0].indices() == []  # reading is free
        store.commit(group_of(0))
    EpisodeStore.create(tmp_path, HEADER).close()


def test_a_store_opened_for_reading_does_not_write(tmp_path):
    EpisodeStore.create(tmp_path, HEADER).close()
    with pytest.raises(ValueError, match="create"):
        open_stores(tmp_path)[0].commit(group_of(0))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("noise", True, "--noise .false, now true."),
        ("env_kwargs", {}, "--env-kwargs"),
        ("expert", {"kind": "train", "source": "x", "sha256": "b" * 64}, "--expert .sb3 model.zip a{8}, now train x b"),
        ("action_space", space_to_json(Discrete(4)), "action space"),
        ("observation_space", space_to_json(Box(-1, 1, (3,))), "observation space"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name_and_change_nothing(tmp_path, key, value, named):
    EpisodeStore.create(tmp_path, HEADER).close()
    with pytest.raises(UsageError, match=f"was collected with another {named}.*--out"):
        EpisodeStore.create(tmp_path, HEADER | {key: value})
    EpisodeStore.create(tmp_path, HEADER).close()  # nor does it keep the lock


def test_other_versions_may_continue(tmp_path):
    EpisodeStore.create(tmp_path, HEADER).close()
    EpisodeStore.create(tmp_path, HEADER | {"versions": {"gymnasium": "1.5.0"}}).close()
    assert open_stores(tmp_path)[0].header["versions"] == {"gymnasium": "1.4.0"}


def test_leftovers_of_a_killed_run_are_removed_and_never_counted(tmp_path):
    with EpisodeStore.create(tmp_path, HEADER) as store:
        store.commit(group_of(0))
        leftover = store.folder / ".00000001.safetensors.partial"
        leftover.write_bytes(b"half")
    assert open_stores(tmp_path)[0].indices() == [0]
    with EpisodeStore.create(tmp_path, HEADER):
        assert not leftover.exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-1] + b"?"]
)
def test_a_damaged_episode_is_named_with_the_way_out(tmp_path, damage):
    with EpisodeStore.create(tmp_path, HEADER) as store:
        store.commit(group_of(0))
        (path,) = store.shard_paths()
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(GatoError, match=r"00000000-00000000\.group\.safetensors.*damaged.*delete it and repeat"):
            store.read(0)


def test_an_episode_is_not_committed_twice_in_one_name(tmp_path):
    with EpisodeStore.create(tmp_path, HEADER) as store:
        store.commit(group_of(0, 1, 5))
        with pytest.raises(ValueError, match=r"00000000-00000005.* already exists"):
            store.commit(group_of(0, 3, 5))
        assert store.indices() == [0, 1, 5]


def test_a_missing_episode_is_named(tmp_path):
    with EpisodeStore.create(tmp_path, HEADER) as store:
        store.commit(group_of(1, 4))
        for access in (store.read, store.stats, store.encoded):
            with pytest.raises(GatoError, match=r"ALE%2FPong-v5 has no episode 5: repeat the `gato-agent collect`"):
                access(5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[]", "does not describe a task"),
        ("{}", "does not describe a task"),
        ("[" * 10_000, "damaged.*nested"),
        ('{"format": 1e999}', "damaged"),
        (json.dumps({"format": 1, **HEADER, "noise": "no"}), "noise is 'no', not bool"),
        (json.dumps({"format": 1, **HEADER, "env_kwargs": 1}), "env_kwargs is 1"),
        (json.dumps({"format": 1, **HEADER, "expert": {}}), "damaged .*kind"),
        (json.dumps({"format": 1, **HEADER, "learner": {}}), "damaged .*kind"),
        (json.dumps({"format": 1, **HEADER, "action_space": {"kind": "Box"}}), "action_space is not the description"),
        (json.dumps({"format": 9, **HEADER}), "format 9, this version reads 1: upgrade"),
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, text, message):
    folder = tmp_path / "A-v0"
    folder.mkdir()
    (folder / "task.json").write_text(text)
    with pytest.raises(GatoError, match=f"task.json.*{message}"):
        open_stores(tmp_path)


def test_one_changed_digit_of_a_bound_is_noticed(tmp_path):
    """Another scale would change every action's target."""
    EpisodeStore.create(tmp_path, HEADER).close()
    (path,) = tmp_path.rglob("task.json")
    text = path.read_text()
    assert '"high": 1.0' in text
    path.write_text(text.replace('"high": 1.0', '"high": 9.0'))
    with pytest.raises(GatoError, match=r"task\.json is damaged .*it does not match its digest.*restore it"):
        open_stores(tmp_path)


def test_headers_of_earlier_versions_have_no_digest_and_are_read(tmp_path):
    EpisodeStore.create(tmp_path, HEADER).close()
    (path,) = tmp_path.rglob("task.json")
    path.write_text(json.dumps({"format": 1, **HEADER}, indent=1, sort_keys=True))
    (store,) = open_stores(tmp_path)
    assert store.header == {"format": 1, **HEADER}
    EpisodeStore.create(tmp_path, HEADER).close()


@pytest.mark.parametrize(
    "change",
    [
        {"observations": {"": np.zeros((2, 2), np.float64)}},
        {"observations": {"": np.zeros((2, 2), np.int32)}},
        {"observations": {"": np.zeros((2, 3), np.float32)}},
        {"observations": {"other": np.zeros((2, 2), np.float32)}},
        {"actions": {"": np.zeros(1, np.int32)}},
        {"actions": {"": np.zeros((1, 1), np.int64)}},
        {"labels": {"": np.zeros(1, np.float32)}},
    ],
)
def test_columns_of_another_kind_than_the_spaces_are_not_used(tmp_path, change):
    """The header of a file determines whether bytes are floats or integers."""
    with EpisodeStore.create(tmp_path, HEADER) as store:
        store.commit([episode(0).encode()])
        store.commit([replace(episode(1), **change).encode()])
        assert store.fitting(0).to_bytes() == episode(0).to_bytes()
        with pytest.raises(GatoError, match=r"ALE%2FPong-v5: episode 1 has other \w+ than task\.json says; delete"):
            store.fitting(1)
        sound, problems = verify(tmp_path)
        assert sound == 1 and len(problems) == 1


def test_a_damaged_task_does_not_keep_the_others_from_being_verified(tmp_path):
    space = {"kind": "Box", "low": 0, "high": 1, "shape": [1], "dtype": "object"}
    headers = {"A-v0": HEADER, "B-v0": HEADER | {"observation_space": space}, "C-v0": HEADER, "D-v0": HEADER}
    for env_id, header in headers.items():
        folder = tmp_path / env_id
        folder.mkdir()
        (folder / "task.json").write_text(json.dumps({"format": 1, **header, "env_id": env_id}))
        (folder / "00000000-00000000.group.safetensors").write_bytes(joined(group_of(0)))
    (tmp_path / "C-v0" / "00000001-00000001.shard.safetensors").mkdir()
    (tmp_path / "C-v0" / "00000002-00000003.group.safetensors").mkdir()
    sound, problems = verify(tmp_path)
    assert sound == 3
    assert len(problems) == 3 and "B-v0/task.json: observation_space is not the description" in problems[0]
    assert all("C-v0" in problem and "no regular file" in problem for problem in problems[1:])
