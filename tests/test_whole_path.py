"""Random environments through all commands: each succeeds or fails with one named error, the same in all."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.verify import verify

COUNT = int(os.environ.get("RANDOM_ENVIRONMENTS", "12"))
FIRST = int(os.environ.get("FIRST_ENVIRONMENT", "0"))
ENV = "tests.helpers.random_env:Random-v0"


def named(call: Any) -> str:
    """One-line error of a call, which names environment and seed; empty if it succeeds."""
    try:
        call()
    except GatoError as error:
        said = str(error)
        assert "\n" not in said and "Random-v0" in said, said
        return said
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FIRST, FIRST + COUNT))
def test_what_is_collected_is_verified_learned_played_exported_and_imported(tmp_path, monkeypatch, number):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    kwargs = json.dumps({"number": number})
    data, run = tmp_path / "data", tmp_path / "run"
    said = named(lambda: collect(CollectConfig(
        env=(ENV,), expert="random", noise=bool(number % 2), episodes=4, workers=0, env_kwargs=kwargs, out=data
    )))  # fmt: skip
    assert not said or "seed" in said, said
    (store,) = open_stores(data)
    if not store.indices():
        assert said
        return
    assert verify(data) == (len(store.indices()), [])
    train(TrainConfig(data=(data,), out=run, steps=2, batch_size=1, num_threads=1))
    for n_envs in (1, 2):
        played = named(lambda n_envs=n_envs: evaluate(EvaluateConfig(
            env=(ENV,), checkpoint=str(run), episodes=3, n_envs=n_envs, workers=0, num_threads=1
        )))  # fmt: skip
        assert not played or "seed" in played, played
    exported(minari, store, tmp_path)
    shutil.rmtree(tmp_path)


def exported(minari: Any, store: EpisodeStore, root: Path) -> None:
    """Export and import; what HDF5 cannot hold is one named error."""
    from gato_agent.rollouts.storage.minari.exporting import export
    from gato_agent.rollouts.storage.minari.importing import import_

    dataset_id = ""

    def there() -> None:
        nonlocal dataset_id
        dataset_id, _ = export(store, "gato")

    try:
        there()
    except GatoError:  # HDF5 has no such names, and no such characters
        assert any("/" in key or not key for key in keys(store.header)) or "\\u0000" in json.dumps(store.header)
        return
    with import_(dataset_id, root / "back") as back:
        assert [back.header[key] for key in ("observation_space", "action_space")] == [
            store.header[key] for key in ("observation_space", "action_space")
        ]
        for number, seed in enumerate(store.indices()):
            theirs, ours = back.read(number), store.read(seed)
            assert theirs.observations.keys() == ours.observations.keys()
            for group in ("observations", "actions", "targets"):
                for path, column in getattr(ours, group).items():
                    assert column.tolist() == getattr(theirs, group)[path].tolist()
            assert theirs.rewards.tolist() == ours.rewards.tolist()


def keys(header: Any) -> Iterator[str]:
    """The keys of all Dicts in a header's spaces."""
    if isinstance(header, dict):
        if header.get("kind") == "Dict":
            yield from (key for key, _ in header["spaces"])
        yield from (key for value in header.values() for key in keys(value))
    elif isinstance(header, list):
        yield from (key for value in header for key in keys(value))
