"""The committed episodes are valid, can be trained on, and equal those of their command."""

import json
from importlib.metadata import PackageNotFoundError, version

import pytest

from gato_agent.dataset.load import load_data
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.task_folder import folder_of
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.paths import SEALED

TASKS = [store.env_id for store in open_stores(SEALED)]


def test_they_are_sound_and_small():
    assert len(TASKS) == 7
    assert verify(SEALED) == (70, [])
    assert sum(path.stat().st_size for path in SEALED.rglob("*") if path.is_file()) < 3_000_000


def test_they_can_be_learned_from():
    data = load_data(SEALED, GatoConfig.nano(), None)
    assert list(data.tasks) == TASKS
    assert data.tokens > 10_000
    assert data.text is not None


@pytest.mark.slow
@pytest.mark.parametrize("env_id", TASKS)
def test_the_same_command_makes_them_again(tmp_path, env_id):
    sample = EpisodeStore(folder_of(SEALED, env_id))
    try:
        other = {name: found for name, kept in sample.header["versions"].items() if (found := version(name)) != kept}
    except PackageNotFoundError as missing:
        pytest.skip(f"{missing} is not installed")
    if other:
        pytest.skip(f"made with other versions than {json.dumps(other)}")
    collect(CollectConfig(env=(env_id,), noise=True, episodes=10, out=tmp_path))
    made = EpisodeStore(folder_of(tmp_path, env_id))
    for ours, theirs in zip(sample.shard_paths(), made.shard_paths(), strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
