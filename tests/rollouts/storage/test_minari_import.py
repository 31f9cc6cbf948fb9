"""Lossless export to Minari and import; no metadata of a data set runs code."""

import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple
from PIL import Image

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.spaces.flatten import row, space_to_json, stack
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import EpisodeFilter, write_filter
from gato_agent.rollouts.storage.minari import exporting
from gato_agent.rollouts.storage.minari.dataset import EXACT, read_episode
from gato_agent.rollouts.storage.minari.exporting import export
from gato_agent.rollouts.storage.minari.importing import import_
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.episodes import HEADER, stored
from tests.helpers.hub_server import serving
from tests.helpers.random_spaces import random_space, random_value

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

SPACE = Dict(
    image=Box(0, 255, (40, 40, 3), np.uint8),
    mission=Text(20),
    parts=Tuple((Discrete(5, start=2), MultiDiscrete([3, 4]))),
    state=Box(-np.inf, np.inf, (), np.float32),
)
ACTION = Dict(move=Box(-1, 1, (2,)), talk=Discrete(3))


def made(seed: int, labels: bool = False) -> Episode:
    SPACE.seed(seed)
    ACTION.seed(seed)
    length = 3 + seed
    return Episode(
        observations=stack(SPACE, [SPACE.sample() for _ in range(length + 1)]),
        actions=stack(ACTION, [ACTION.sample() for _ in range(length)]),
        labels=stack(ACTION, [ACTION.sample() for _ in range(length)]) if labels else None,
        rewards=np.arange(length) / 3,
        terminated=seed % 2 == 0,
        truncated=seed % 2 == 1,
        success=(None, True, False)[seed % 3],
        seed=seed,
        provenance={"noise": 0.3 * labels} | ({"lost": True} if labels else {}),
    )


fill = partial(stored, spaces=(SPACE, ACTION))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_minari_opens_what_was_exported_and_finds_it_exact(tmp_path):
    episodes = [made(seed, labels=seed == 1) for seed in range(4)]
    with fill(tmp_path / "data", *episodes) as store:
        dataset_id, count = export(store, "gato", about={"author": "me", "code_permalink": "https://example.org"})
    assert (dataset_id, count) == ("gato/Thing-v0/sb3-v0", 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.load_dataset(dataset_id)
    assert (dataset.spec.observation_space, dataset.spec.action_space) == (SPACE, ACTION)
    assert dataset.total_episodes == 4
    assert dataset.total_steps == sum(map(len, episodes))
    metadata = dataset.storage.metadata
    assert metadata["author"] == {"me"}
    assert metadata["algorithm_name"] == "sb3: model.zip"
    for ours, theirs in zip(episodes, dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(theirs.observations["image"], ours.observations["image"])  # jpeg would differ
        assert theirs.observations["mission"] == ours.observations["mission"].tolist()
        np.testing.assert_array_equal(theirs.observations["parts"][1], ours.observations["parts/1"])
        np.testing.assert_array_equal(theirs.actions["move"], ours.actions["move"])
        np.testing.assert_array_equal(theirs.rewards, ours.rewards)
        assert theirs.terminations.tolist() == [*[False] * (len(ours) - 1), ours.terminated]
        assert theirs.truncations.tolist() == [*[False] * (len(ours) - 1), ours.truncated]
        assert row(SPACE, ours.observations, 0) in SPACE


def test_there_and_back_nothing_changes(tmp_path, home):
    episodes = [made(seed, labels=seed == 1) for seed in range(4)]
    with fill(tmp_path / "data", *episodes) as store:
        dataset_id, _ = export(store, "gato")
    with import_(str(home / dataset_id), tmp_path / "back") as back:  # not registered: the id stands beside the spec
        assert back.env_id == "Thing-v0"
        assert (back.observation_space, back.action_space) == (SPACE, ACTION)
        assert back.header["expert"]["source"] == dataset_id
        for episode in episodes:
            read = back.read(episode.seed)
            assert read.provenance["minari_seed"] == episode.seed
            assert read.provenance["noise"] == episode.provenance["noise"]
            assert read.stats.lost is episode.stats.lost
            assert replace(read, provenance=episode.provenance).to_bytes() == episode.to_bytes()
    with import_(dataset_id, tmp_path / "back", "Thing-v0") as again:  # by its id; nothing is left to do
        assert again.indices() == [0, 1, 2, 3]


def test_reference_scores_and_the_environment_are_filled_in(tmp_path):
    env = gym.make("CartPole-v1")
    spaces = {
        "observation_space": space_to_json(env.observation_space),
        "action_space": space_to_json(env.action_space),
    }
    episode = Episode(
        {"": np.zeros((3, 4), np.float32)}, {"": np.zeros(2, np.int64)}, None, np.ones(2), True, False, None, 0
    )
    with fill(tmp_path, episode, env_id="CartPole-v1", **spaces) as store:
        dataset_id, _ = export(store, "gato")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.load_dataset(dataset_id)
        assert dataset.spec.env_spec.id == "CartPole-v1"
        assert dataset.recover_environment().spec.id == "CartPole-v1"
    assert dataset.storage.metadata["ref_max_score"] == 500.0
    assert dataset.storage.metadata["ref_min_score"] == 21.87
    assert minari.get_normalized_score(dataset, np.array([500.0])) == 1.0


def test_only_what_the_rule_keeps_is_exported(tmp_path):
    with fill(tmp_path, *(made(seed) for seed in range(3))) as store:
        write_filter(store, EpisodeFilter(success_only=True))
        assert export(store, "gato")[1] == 1


def test_nothing_is_not_exported(tmp_path, home):
    with fill(tmp_path, made(0)) as store:
        for path in store.folder.glob("*.safetensors"):
            path.unlink()
        message = f"no episodes to export in {store.folder}: collect some, or delete the folder"
        with pytest.raises(GatoError, match=message):
            export(store, "gato")
    assert not list((home / "gato").glob("**/*.hdf5"))


def test_a_data_set_that_is_there_is_not_overwritten(tmp_path, home):
    with fill(tmp_path / "data", made(0)) as store:
        dataset_id, _ = export(store, "gato")
        before = tree(home)
        assert export(store, "gato") == (dataset_id, 1)  # it is what was asked for
        store.commit([made(1).encode()])
        with pytest.raises(UsageError, match=r"gato/Thing-v0/sb3-v0: .*already exists.*another --namespace"):
            export(store, "gato")
        assert tree(home) == before
        assert export(store, "other") == ("other/Thing-v0/sb3-v0", 2)


@pytest.mark.parametrize("left", [lambda data: None, lambda data: data.mkdir(), lambda data: make_half(data)])
def test_half_a_data_set_of_another_version_is_named(tmp_path, home, left):
    target = home / "gato" / "Thing-v0" / "sb3-v0"
    target.mkdir(parents=True)
    left(target / "data")
    with fill(tmp_path / "data", made(0)) as store:
        with pytest.raises(UsageError, match=rf"already exists in {target}, .*: delete it"):
            export(store, "gato")
        shutil.rmtree(target)
        assert export(store, "gato")[1] == 1


def make_half(data: Path) -> None:
    data.mkdir()
    (data / "main_data.hdf5").touch()
    (data / "metadata.json").write_text('{"dataset_id": "gato/Thing-v0/sb3-v0", "total_episodes": 0}')


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


KILLED = """
import os, signal, sys
from pathlib import Path
from gato_agent.rollouts.storage.minari import exporting
from gato_agent.rollouts.storage.episode_store import open_stores
calls = iter(range(int(sys.argv[2])))
def dying(event, arguments):
    if event in ("open", "os.rename", "os.mkdir") and "minari" in str(arguments[0]) and next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
store, = open_stores(Path(sys.argv[1]))
exporting.load_minari()
sys.addaudithook(dying)
exporting.export(store, "gato", Path(sys.argv[1]).parent / "minari")
"""


MOMENTS = [0, 5, 10, 20, 35, 50, pytest.param(1000, id="never")]


@pytest.mark.parametrize(
    "moment", [*MOMENTS, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 50, 2))]
)
def test_killed_at_any_moment_an_export_leaves_nothing_in_the_way(tmp_path, home, moment):
    """The export is killed at each file that it opens and each folder that it makes or moves."""
    with fill(tmp_path / "data", *map(made, range(3))) as store:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(moment)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -9), done.stderr
        target = home / "gato" / "Thing-v0" / "sb3-v0"
        there = target.exists()  # only what was compared has its place
        before = tree(target) if there else {}
        assert export(store, "gato", home)[1] == 3
        assert not there or tree(target) == before
        assert [path.name for path in home.iterdir()] == ["gato"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert list(minari.list_local_datasets()) == ["gato/Thing-v0/sb3-v0"]


def test_what_is_not_held_exactly_gets_no_place(tmp_path, home, monkeypatch):
    def another(data, more, spaces, provenance):
        return replace(read_episode(data, more, spaces, provenance), rewards=np.zeros(len(data["rewards"])))

    monkeypatch.setattr(exporting, "read_episode", another)
    with fill(tmp_path / "data", made(1)) as store:
        with pytest.raises(GatoError, match="gato/Thing-v0/sb3-v0: Minari does not hold episode 1 of Thing-v0 exactly"):
            export(store, "gato")
        assert not tree(home)
        monkeypatch.undo()
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(home))
        assert export(store, "gato")[1] == 1


@pytest.mark.parametrize("key", ["joint/left", "/", "", ".", "..", "a\0"])
@pytest.mark.parametrize("where", ["observation_space", "action_space"])
def test_a_key_that_hdf5_divides_is_refused_by_name(tmp_path, key, where):
    inner = Dict({"deep": Tuple([Dict({key: Discrete(2)})])})
    message = rf"gato/Thing-v0/sb3-v0: the key {re.escape(repr(key))} of a Dict"
    header = HEADER | {"env_id": "Thing-v0", where: space_to_json(inner)}
    with EpisodeStore.create(tmp_path, header) as store, pytest.raises(GatoError, match=message):
        export(store, "gato")


def test_labels_of_tuples_and_texts_come_back(tmp_path, home):
    space = Tuple([Text(5), Dict(x=Tuple([Discrete(3), Box(-1, 1, (2,))]))])
    space.seed(0)
    acted, labels = ([space.sample() for _ in range(4)] for _ in range(2))
    odd = replace(made(1), actions=stack(space, acted), labels=stack(space, labels))
    with fill(tmp_path / "data", odd, action_space=space_to_json(space)) as store:
        dataset_id, _ = export(store, "gato")
    with import_(str(home / dataset_id), tmp_path / "back") as back:
        read = back.read(0)  # numbered as in the data set
        assert replace(read, seed=1, provenance=odd.provenance).to_bytes() == odd.to_bytes()


@pytest.mark.parametrize("seed", range(25))
def test_any_space_is_held_exactly_or_refused_by_name(tmp_path, home, seed):
    rng = np.random.default_rng(seed)
    spaces = random_space(rng), random_space(rng)
    seen, acted = (stack(s, [random_value(rng, s) for _ in range(n)]) for s, n in zip(spaces, (4, 3), strict=True))
    labels = stack(spaces[1], [random_value(rng, spaces[1]) for _ in range(3)]) if seed % 2 else None
    episode = Episode(seen, acted, labels, rng.normal(size=3), True, False, None, 5, {"noise": 0.1})
    described = {name: space_to_json(s) for name, s in zip(("observation_space", "action_space"), spaces, strict=True)}
    with fill(tmp_path / "data", episode, **described) as store:
        try:
            dataset_id, _ = export(store, "gato")
        except GatoError as error:
            assert str(error).startswith("gato/Thing-v0/sb3-v0")  # noqa: PT017
            assert not tree(home)
            return
    with import_(str(home / dataset_id), tmp_path / "back") as back:
        assert (back.observation_space, back.action_space) == spaces
        assert replace(back.read(0), seed=5, provenance=episode.provenance).to_bytes() == episode.to_bytes()


def test_what_minari_does_not_take_is_not_said_to_be_there_already(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("it is not in its space")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", refuse)
    said = r"^gato/Thing-v0/sb3-v0: Minari does not take these episodes: ValueError: it is not in its space$"
    with fill(tmp_path, made(0)) as store, pytest.raises(GatoError, match=said):
        export(store, "gato")


def test_episodes_are_written_in_groups_and_a_full_disk_is_said(tmp_path, home, monkeypatch):
    with fill(tmp_path / "data", *(made(seed) for seed in range(4))) as store:
        dataset_id, _ = export(store, "gato")
    groups, commit = [], EpisodeStore.commit

    def counted(self, episodes):
        groups.append([each.seed for each in episodes])
        if len(groups) == 1:
            raise OSError(28, "No space left on device", "there")
        commit(self, episodes)

    monkeypatch.setattr(EpisodeStore, "commit", counted)
    monkeypatch.setattr("gato_agent.rollouts.storage.writer.COMMIT_SECONDS", 60.0)
    with pytest.raises(OSError, match="No space left"):
        import_(str(home / dataset_id), tmp_path / "back")
    with import_(str(home / dataset_id), tmp_path / "back") as back:
        assert back.indices() == [0, 1, 2, 3]
    assert groups == [[0, 1, 2, 3]] * 2


CANARY = """
import pathlib, gymnasium
pathlib.Path({path!r}).write_text("sung")
class Env(gymnasium.Env): ...
"""


def test_code_in_the_metadata_never_runs(tmp_path, home, monkeypatch):
    """Minari's own loader imports the module that a spec names; this one does not."""
    with fill(tmp_path / "data", made(0)) as store:
        dataset_id, _ = export(store, "gato")
    sung = tmp_path / "sung"
    (tmp_path / "canary.py").write_text(CANARY.format(path=str(sung)))
    monkeypatch.syspath_prepend(tmp_path)
    file = home / dataset_id / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["env_id"]
    spec = json.loads(gym.spec("CartPole-v1").to_json()) | {"id": "Thing-v0", "entry_point": "canary:Env"}
    spec["additional_wrappers"] = [{"name": "canary", "entry_point": "canary:Env", "kwargs": {}}]
    source, none = str(home / dataset_id), "names no environment that could be used"
    for number, env_spec in enumerate((spec, spec | {"id": "canary:Thing-v0"}, "canary:Env", None)):
        text = json.dumps(env_spec)
        file.write_text(json.dumps(metadata | {"env_spec": text, "eval_env_spec": text}))
        import_(source, tmp_path / f"named{number}", "Thing-v0").close()
        if number == 0:
            import_(source, tmp_path / f"unnamed{number}").close()
        else:
            with pytest.raises(UsageError, match=none):
                import_(source, tmp_path / f"unnamed{number}")
    for key in ("observation_space", "action_space"):
        del metadata[key]
    file.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    with pytest.raises(GatoError, match="lacks an id, the number of episodes or spaces"):
        import_(source, tmp_path / "other")
    assert not sung.exists()
    with warnings.catch_warnings(), suppress(Exception):  # whatever Minari raises, it has run
        warnings.simplefilter("ignore")
        minari.load_dataset(dataset_id)
    assert sung.exists()


@pytest.mark.parametrize("env_id", ["..", ".", "", "../up-v0", "canary:Env-v0"])
def test_no_data_set_names_another_folder(tmp_path, home, env_id):
    with fill(tmp_path / "data", made(0)) as store:
        dataset_id, _ = export(store, "gato")
    file = home / dataset_id / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata.pop("env_spec", None)
    before = sorted(tmp_path.rglob("*"))
    for named in ({"env_id": env_id}, {"env_spec": json.dumps({"id": env_id})}):
        file.write_text(json.dumps(metadata | named))
        with pytest.raises(UsageError, match="names no environment that could be used: give its id with --env"):
            import_(str(home / dataset_id), tmp_path / "out" / "in")
    if env_id:
        with pytest.raises(UsageError, match="is no environment's registered id"):
            import_(str(home / dataset_id), tmp_path / "out" / "in", env_id)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: (data / "metadata.json").write_text("{"), "metadata.json is damaged"),
        (lambda data: (data / "metadata.json").unlink(), "is no Minari data set"),
        (lambda data: (data / "main_data.hdf5").write_bytes(b"nothing"), "cannot be read as a Minari data set"),
        (lambda data: (data / "main_data.hdf5").unlink(), "cannot be read as a Minari data set"),
    ],
)
def test_a_damaged_data_set_is_named(tmp_path, home, change, message):
    with fill(tmp_path / "data", made(0)) as store:
        dataset_id, _ = export(store, "gato")
    shutil.copytree(home / dataset_id, tmp_path / "copy")
    change(tmp_path / "copy" / "data")
    with pytest.raises(GatoError, match=message):
        import_(str(tmp_path / "copy"), tmp_path / "back", "Thing-v0")


@pytest.fixture
def public(tmp_path, home) -> tuple[Path, str]:
    """A data set on the local hub, and its id."""
    with fill(tmp_path / "data", made(0)) as store:
        dataset_id, _ = export(store, "gato")
    repo = tmp_path / "hub" / "datasets" / "farama-minari" / "gato"
    repo.parent.mkdir(parents=True)
    (home / "gato").rename(repo)
    file = repo.parent / dataset_id / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"combined_datasets": ["hf://evil/other/x-v0"]}))
    return tmp_path / "hub", dataset_id


@pytest.mark.parametrize("prefix", ["", "hf://farama-minari/"])
def test_a_public_data_set_is_downloaded_by_its_id_and_no_other(tmp_path, public, home, monkeypatch, prefix):
    root, dataset_id = public
    with serving(root) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        with import_(prefix + dataset_id, tmp_path / "back", "Thing-v0") as store:
            assert store.indices() == [0]
        assert hub.requests and not any("evil" in line or "other" in line for line in hub.requests)
        count = len(hub.requests)
        import_(dataset_id, tmp_path / "again", "Thing-v0").close()
        assert len(hub.requests) == count  # from the cache
        for missing in ("gato/Thing-v0/none-v0", "no/such-v0", "no such"):
            said = rf"no folder and no data set '{missing}' that could be downloaded: "
            with pytest.raises(UsageError, match=said):
                import_(missing, tmp_path / "other", "Thing-v0")


def test_a_fresh_process_imports_a_public_data_set(tmp_path, public):
    root, dataset_id = public
    with serving(root) as hub:
        words = ("-m", "gato_agent", "data", "import", dataset_id, "--env", "Thing-v0", "--out", tmp_path / "back")
        done = hub.run(tmp_path / "cache", *words, MINARI_DATASETS_PATH=str(tmp_path / "there"))
    assert done.returncode == 0, done.stderr
    assert "Thing-v0: 1 episodes of" in done.stdout


@pytest.fixture
def data(tmp_path, home) -> Path:
    """Files of a data set of three episodes."""
    with fill(tmp_path / "data", *(made(seed) for seed in range(3))) as store:
        dataset_id, _ = export(store, "gato")
    return home / dataset_id / "data"


def secret(tmp_path: Path) -> Path:
    """Rewards in a file of the reader."""
    path = tmp_path / "secret.hdf5"
    with h5py.File(path, "w") as file:
        file["rewards"] = np.arange(3.0)
        file.create_group("episode")
    (tmp_path / "secret.bin").write_bytes(np.arange(3.0).tobytes())
    return path


def external_link(file, tmp_path):
    del file["episode_0/rewards"]
    file["episode_0/rewards"] = h5py.ExternalLink(secret(tmp_path), "/rewards")


def external_group(file, tmp_path):
    del file["episode_1"]
    file["episode_1"] = h5py.ExternalLink(secret(tmp_path), "/episode")


def soft_link(file, tmp_path):
    del file["episode_0/rewards"]
    file["episode_0/rewards"] = h5py.SoftLink("/episode_1/rewards")


def dangling(file, tmp_path):
    file["episode_0/observations/more"] = h5py.SoftLink("/nowhere")


def external_storage(file, tmp_path):
    secret(tmp_path)
    del file["episode_0/rewards"]
    place = [(str(tmp_path / "secret.bin"), 0, 24)]
    file["episode_0"].create_dataset("rewards", (3,), "f8", external=place)


def virtual(file, tmp_path):
    del file["episode_0/rewards"]
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(secret(tmp_path), "rewards", (3,))
    file["episode_0"].create_virtual_dataset("rewards", layout)


def two_names(file, tmp_path):
    del file["episode_0/rewards"]
    file["episode_0/rewards"] = file["episode_1/rewards"]


def cycle(file, tmp_path):
    file["episode_0/infos"] = file["episode_0"]


def root_again(file, tmp_path):
    file["episode_0/infos"] = file["/"]


def nothing_stored(file, tmp_path):
    del file["episode_0/rewards"]
    file["episode_0"].create_dataset("rewards", (10**15,), "f8", chunks=(1024,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external_link, "episode_0/rewards is a link to another place or file, which is not followed"),
        (external_group, "episode_1 is a link to another place or file, which is not followed"),
        (soft_link, "episode_0/rewards is a link to another place or file, which is not followed"),
        (dangling, "episode_0/observations/more is a link to another place or file, which is not followed"),
        (external_storage, "episode_0/rewards stores its numbers in other files, which are not read"),
        (virtual, "episode_0/rewards stores its numbers in other files, which are not read"),
        (two_names, "rewards has several names in the file"),
        (cycle, "has several names in the file"),
        (root_again, "has several names in the file"),
        (nothing_stored, "episode_0/rewards declares 8,000,000,000,000,000 bytes, of which 0 are stored"),
    ],
)
def test_arrays_that_lie_elsewhere_are_refused_by_name(tmp_path, data, change, message):
    with h5py.File(data / "main_data.hdf5", "a") as file:
        change(file, tmp_path)
    with pytest.raises(GatoError, match=rf"main_data\.hdf5: /.*{message}: export or download the data set again"):
        import_(str(data.parent), tmp_path / "back", "Thing-v0")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json", "more"])
def test_links_among_the_files_of_a_data_set_are_refused_by_name(tmp_path, data, name):
    path = data / name
    if path.exists():
        path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GatoError, match=rf"{name} is a link to .*elsewhere, which is not followed"):
        import_(str(data.parent), tmp_path / "back", "Thing-v0")


def test_a_data_set_that_the_user_names_by_a_link_is_read(tmp_path, data):
    (tmp_path / "mine").symlink_to(data.parent)
    with import_(str(tmp_path / "mine"), tmp_path / "back", "Thing-v0") as store:
        assert store.indices() == [0, 1, 2]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (10**12, "has total_episodes 1,000,000,000,000, and 3 exist"),
        (4, "has total_episodes 4, and 3 exist"),
        (-1, "has total_episodes -1, which is no number"),
        (1e12, "has total_episodes 1000000000000.0, which is no number"),
        ("3", "has total_episodes '3', which is no number"),
        (True, "has total_episodes True, which is no number"),
        (None, "has total_episodes None, which is no number"),
        ([3], r"has total_episodes \[3\], which is no number"),
    ],
)
def test_a_number_of_episodes_that_are_not_there_is_refused(tmp_path, data, count, message):
    file = data / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"total_episodes": count}))
    with pytest.raises(GatoError, match=rf"metadata\.json {message}: export or download the data set again"):
        import_(str(data.parent), tmp_path / "back", "Thing-v0")


def test_an_episode_in_between_that_is_missing_is_named(tmp_path, data):
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file.move("episode_1", "episode_7")
    with pytest.raises(GatoError, match="has no episode_1, though total_episodes is 3"):
        import_(str(data.parent), tmp_path / "back", "Thing-v0")


def jpegs(data: Path, *pictures: bytes) -> None:
    """Replace the images of the first episode by JPEG, Minari's default."""
    file = data / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"jpeg_encoding": True, "total_episodes": 1}))
    with h5py.File(data / "main_data.hdf5", "a") as arrays:
        del arrays["episode_0/observations/image"]
        kind = h5py.vlen_dtype(np.uint8)
        image = arrays["episode_0/observations"].create_dataset("image", (len(pictures),), kind)
        for number, picture in enumerate(pictures):
            image[number] = np.frombuffer(picture, np.uint8)


def encoded(kind: str, size: tuple[int, int] = (40, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind)
    return buffer.getvalue()


def test_only_jpeg_of_the_observations_size_is_decoded(tmp_path, data, monkeypatch):
    """Pillow starts another program for the format EPS."""
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    jpegs(data, *[encoded("JPEG")] * 4)
    with import_(str(data.parent), tmp_path / "back", "Thing-v0") as store:
        assert not store.read(0).observations["image"].any()
    for number, (kind, size) in enumerate((("EPS", (40, 40)), ("PNG", (40, 40)), ("JPEG", (4000, 4000)))):
        jpegs(data, *[encoded(kind, size)] * 4)
        with pytest.raises(GatoError, match="none of 1 episodes are valid: episode 0: "):
            import_(str(data.parent), tmp_path / f"back{number}", "Thing-v0")
    assert not started


@pytest.mark.parametrize("space", [{"type": "MultiBinary", "n": 10**12}, {"type": "MultiBinary", "n": [10**6, 10**6]}])
def test_a_space_of_any_size_is_refused_by_name(tmp_path, data, space):
    file = data / "metadata.json"
    metadata = json.loads(file.read_text())
    exact = metadata.pop(EXACT)
    exact["action_space"] = {"kind": space["type"], "n": space["n"]}
    file.write_text(json.dumps(metadata | {EXACT: exact}))
    with pytest.raises(GatoError, match=rf"{data}.* not the description of a space"):
        import_(str(data.parent), tmp_path / "back", "Thing-v0")
    file.write_text(json.dumps(metadata | {"action_space": json.dumps(space)}))
    with pytest.raises(GatoError, match=rf"{data}.* (not the description of a space|cannot be read)"):
        import_(str(data.parent), tmp_path / "back", "Thing-v0")


def foreign(name: str, *episodes: dict, space=None, acted=None) -> str:
    """Data set of raw arrays, made by Minari; each episode is a valid one with some arrays replaced."""
    buffers = []
    for number, other in enumerate(episodes):
        ends = np.arange(5) == 4
        sound = {"observations": np.zeros((6, 2), np.float32), "actions": np.zeros(5, np.int64), "rewards": np.ones(5)}
        ends = {"terminations": ends, "truncations": ends & False}
        buffers.append(minari.data_collector.EpisodeBuffer(id=number, **sound | ends | other))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            f"some/{name}-v0", buffers,
            observation_space=space or Box(-1, 1, (2,), np.float32), action_space=acted or Discrete(8),
        )  # fmt: skip
    return f"some/{name}-v0"


BAD = {
    "rows": ({"observations": np.zeros((5, 2), np.float32)}, "observations: 5 rows, but 5 steps have 6"),
    "nan": ({"observations": np.full((6, 2), np.nan)}, "observations, step 0: element [0] is nan, not a finite number"),
    "action": ({"actions": np.full(5, 8)}, "actions, step 0: value is 8, beyond its bounds 0 to 7 (--clip-actions"),
    "half": ({"actions": np.full(5, 0.5)}, "actions, step 0: value is 0.5, which is no int64"),
    "rewards": ({"rewards": np.full(5, np.inf)}, "rewards, step 0: inf, with which the return is not finite"),
    "shape": ({"observations": np.zeros((6, 3))}, "shape (3,) of float64 instead of (2,) of float32"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_episode_that_cannot_be_held_is_left_out_by_name(tmp_path, kind):
    bad, message = BAD[kind]
    dataset_id, said = foreign(kind, {}, bad, {}), []
    with import_(dataset_id, tmp_path, "Own-v0", say=said.append) as store:
        assert store.indices() == [0, 2]
    assert len(said) == 1 and said[0].startswith(f"{dataset_id}: episode 1 is left out: ") and message in said[0]
    assert verify(tmp_path) == (2, [])
    with import_(dataset_id, tmp_path, "Own-v0", say=said.append) as store:  # and is told again
        assert store.indices() == [0, 2]
    assert said[0] == said[1]


def test_a_data_set_without_a_sound_episode_leaves_nothing_behind(tmp_path):
    dataset_id = foreign("bad", {"actions": np.full(5, 8)})
    message = r"^some/bad-v0: none of 1 episodes are valid: episode 0: actions, step 0: value is 8, beyond its bounds"
    with pytest.raises(GatoError, match=message):
        import_(dataset_id, tmp_path / "out", "Own-v0")
    assert not (tmp_path / "out").exists()


def test_other_dtypes_are_cast_and_actions_clipped_if_asked(tmp_path):
    acted, wild = Box(-1, 1, (1,), np.float32), np.full((5, 1), 1.5)
    dataset_id = foreign("wild", {"observations": np.ones((6, 2), np.int8), "actions": wild}, acted=acted)
    with import_(dataset_id, tmp_path, "Own-v0", clip_actions=True) as store:
        episode = store.read(0)
    assert (episode.observations[""].dtype, episode.actions[""].dtype) == (np.float32, np.float32)
    assert episode.actions[""].tolist() == [[1.0]] * 5


@pytest.mark.parametrize("seed", range(25))
def test_the_import_of_the_export_is_the_same_for_any_spaces(tmp_path, home, seed):
    rng = np.random.default_rng(seed)
    observed, acted = exportable(rng), exportable(rng)
    spaces = {"observation_space": space_to_json(observed), "action_space": space_to_json(acted)}
    values = [[random_value(rng, space) for _ in range(4)] for space in (observed, acted)]
    actions, labels = (stack(acted, values[1][i : i + 3]) for i in (0, 1))
    labels = labels if seed % 2 else None
    episode = Episode(stack(observed, values[0]), actions, labels, np.arange(3) / 3, True, False, None, 0)
    with fill(tmp_path / "data", episode, **spaces) as store:
        dataset_id, _ = export(store, "gato")
    with import_(str(home / dataset_id), tmp_path / "back") as back:
        assert {key: back.header[key] for key in spaces} == spaces
        assert replace(back.read(0), provenance={}).to_bytes() == episode.to_bytes()


def exportable(rng: np.random.Generator):
    """True if HDF5 can store values of a space: no slash in a key, no NUL in a text."""
    while True:
        space = random_space(rng, 2)
        if "/" not in str(space) and "''" not in str(space) and "\0" not in str(space):
            return space
