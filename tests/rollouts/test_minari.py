"""To Minari and back, exactly; and whatever a data set's metadata says, no code of it runs."""

import json
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.structure import row, space_to_json, stack
from gato_agent.rollouts.episode import Episode
from gato_agent.rollouts.keep import Rule, write_rule
from gato_agent.rollouts.minari import import_
from gato_agent.rollouts.minari_export import export
from gato_agent.rollouts.store import EpisodeStore
from gato_agent.rollouts.verify import verify
from tests.random_spaces import random_space, random_value
from tests.rollouts.test_store import HEADER

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

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
        provenance={"noise": 0.3 * labels},
    )


def fill(root: Path, *episodes: Episode, **header) -> EpisodeStore:
    spaces = {"observation_space": space_to_json(SPACE), "action_space": space_to_json(ACTION)}
    store = EpisodeStore.create(root, HEADER | spaces | {"env_id": "Thing-v0", "env_kwargs": {}} | header)
    store.commit([episode.encode() for episode in episodes])
    return store


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
        write_rule(store, Rule(success_only=True))
        assert export(store, "gato")[1] == 1


def test_a_data_set_that_is_there_is_not_overwritten(tmp_path):
    with fill(tmp_path, made(0)) as store:
        export(store, "gato")
        with pytest.raises(UsageError, match=r"gato/Thing-v0/sb3-v0: .*already exists.*another --namespace"):
            export(store, "gato")


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
    monkeypatch.setattr("gato_agent.rollouts.commit.GROUP_SECONDS", 60.0)
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


def test_a_public_data_set_is_downloaded_by_its_id(tmp_path, home, monkeypatch):
    with fill(tmp_path / "data", made(0)) as store:
        dataset_id, _ = export(store, "gato")
    (home / dataset_id).rename(tmp_path / "server")
    asked = []

    def download(name: str) -> None:
        asked.append(name)
        if name != dataset_id:
            raise ValueError("Couldn't find any version")
        shutil.copytree(tmp_path / "server", home / name)

    monkeypatch.setattr(minari, "download_dataset", download)
    with import_(dataset_id, tmp_path / "back", "Thing-v0") as store:
        assert store.indices() == [0]
    with pytest.raises(
        UsageError, match=r"no folder and no data set 'no/such-v0' that could be downloaded: ValueError"
    ):
        import_("no/such-v0", tmp_path / "back", "Thing-v0")
    assert asked == [dataset_id, "no/such-v0"]


def public(name: str, *episodes: dict, space=None, acted=None) -> str:
    """A data set that Minari itself makes of raw arrays; each episode has what it has otherwise than the sound one."""
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
    "rows": ({"observations": np.zeros((5, 2), np.float32)}, "observations: 5 rows, where 5 steps have 6"),
    "nan": ({"observations": np.full((6, 2), np.nan)}, "observations, step 0: element [0] is nan, not a finite number"),
    "action": ({"actions": np.full(5, 8)}, "actions, step 0: value is 8, beyond its bounds 0 to 7 (--clip-actions"),
    "half": ({"actions": np.full(5, 0.5)}, "actions, step 0: value is 0.5, which is no int64"),
    "rewards": ({"rewards": np.full(5, np.inf)}, "rewards, step 0: inf, with which the return is not finite"),
    "shape": ({"observations": np.zeros((6, 3))}, "shape (3,) of float64 instead of (2,) of float32"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_episode_that_cannot_be_held_is_left_out_by_name(tmp_path, kind):
    bad, message = BAD[kind]
    dataset_id, said = public(kind, {}, bad, {}), []
    with import_(dataset_id, tmp_path, "Own-v0", say=said.append) as store:
        assert store.indices() == [0, 2]
    assert len(said) == 1 and said[0].startswith(f"{dataset_id}: episode 1 is left out: ") and message in said[0]
    assert verify(tmp_path) == (2, [])
    with import_(dataset_id, tmp_path, "Own-v0", say=said.append) as store:  # and is told again
        assert store.indices() == [0, 2]
    assert said[0] == said[1]


def test_a_data_set_without_a_sound_episode_leaves_nothing_behind(tmp_path):
    dataset_id = public("bad", {"actions": np.full(5, 8)})
    message = r"^some/bad-v0: none of 1 episodes can be held: episode 0: actions, step 0: value is 8, beyond its bounds"
    with pytest.raises(GatoError, match=message):
        import_(dataset_id, tmp_path / "out", "Own-v0")
    assert not (tmp_path / "out").exists()


def test_other_dtypes_are_cast_and_actions_clipped_if_asked(tmp_path):
    acted, wild = Box(-1, 1, (1,), np.float32), np.full((5, 1), 1.5)
    dataset_id = public("wild", {"observations": np.ones((6, 2), np.int8), "actions": wild}, acted=acted)
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
    """A space of which HDF5 can hold everything: no slash in a key, no NUL in a text."""
    while True:
        space = random_space(rng, 2)
        if "/" not in str(space) and "''" not in str(space) and "\0" not in str(space):
            return space
