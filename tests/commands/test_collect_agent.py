"""`collect --checkpoint`: the agent's own episodes, a function of their seeds and of the sampling seed."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato_agent.cli import main
from gato_agent.commands.collect import CollectConfig, collect
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.make import make_vector
from gato_agent.inference.agent import Agent
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.episodes import contents
from tests.helpers.improving import CARTPOLE, collected, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    collected(folder / "demos", episodes=3)
    return trained(folder / "run", folder / "demos")


def asked(run: Path, out: Path, **more: Any) -> CollectConfig:
    config = CollectConfig((CARTPOLE,), checkpoint=str(run), episodes=4, workers=0, out=out)
    return dataclasses.replace(config, **more)


def actions(out: Path) -> list[list[int]]:
    (store,) = open_stores(out)
    return [store.read(seed).actions[""].tolist() for seed in store.indices()]


def test_greedy_episodes_are_those_that_the_agent_plays(run: Path, tmp_path: Path) -> None:
    collect(asked(run, tmp_path, temperature=0.0, episodes=2))
    envs = make_vector(CARTPOLE, 1)
    agent, store = Agent.from_pretrained(run, envs, device="cpu", temperature=0.0), EpisodeStore(tmp_path / CARTPOLE)
    for seed in store.indices():
        episode = store.read(seed)
        assert episode.targets is episode.actions
        observations, _ = envs.reset(seed=[seed])
        agent.reset(1)
        for t, action in enumerate(episode.actions[""]):
            np.testing.assert_array_equal(observations[0], episode.observations[""][t])
            assert agent.act(observations, np.array([t == 0]))[0] == action
            observations, *_ = envs.step(np.array([action]))


def test_an_episode_depends_on_its_seed_and_the_sampling_seed_alone(run: Path, tmp_path: Path) -> None:
    collect(asked(run, tmp_path / "here"))
    collect(asked(run, tmp_path / "there", workers=2))
    collect(asked(run, tmp_path / "parts", seed=2, episodes=2))
    collect(asked(run, tmp_path / "parts"))
    assert contents(tmp_path / "here") == contents(tmp_path / "there") == contents(tmp_path / "parts")
    assert verify(tmp_path / "here") == (4, [])


def test_each_episode_and_each_sampling_seed_have_random_numbers_of_their_own(run: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        collect(asked(run, tmp_path / str(seed), sampling_seed=seed, temperature=100.0))
    first, again = actions(tmp_path / "0"), actions(tmp_path / "1")
    beginnings = {tuple(each[:8]) for each in first + again}
    assert len(beginnings) == len(first + again)


def test_the_folder_names_the_agent_and_its_sampling(run: Path, tmp_path: Path) -> None:
    collect(asked(run, tmp_path, episodes=1, temperature=0.7, sampling_seed=3))
    (store,) = open_stores(tmp_path)
    assert store.kind == "agent"
    assert store.header["expert"]["source"] == "run, temperature 0.7, sampling seed 3"
    assert len(store.header["expert"]["sha256"]) == 64
    for other in ({"temperature": 0.8, "sampling_seed": 3}, {"temperature": 0.7}, {"checkpoint": "shipped"}):
        with pytest.raises(UsageError, match=r"another --expert \(agent run, temperature 0.7, sampling seed 3"):
            collect(asked(run, tmp_path, **other))


def test_a_run_folder_and_its_file_are_one_agent(run: Path, tmp_path: Path) -> None:
    collect(asked(run, tmp_path, episodes=1))
    collect(asked(run / "model.safetensors", tmp_path, episodes=2))
    (store,) = open_stores(tmp_path)
    assert store.indices() == [0, 1]


def test_the_command_by_hand_filters_and_trains_on(run: Path, tmp_path: Path) -> None:
    """The steps that `improve` joins are verbs of their own."""
    own, tuned = tmp_path / "own", tmp_path / "tuned"
    collect(asked(run, own, episodes=6))
    for line in (
        f"data filter {own} --above 0.9",
        f"train --init {run} --data {own} --out {tuned} --steps 1 --batch-size 1 --num-threads 1",
    ):
        with pytest.raises(SystemExit) as end:
            main(line.split())
        assert end.value.code == 0
    assert (tuned / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"env": ("MountainCar-v0",)}, "does not know MountainCar-v0"),
        ({"checkpoint": "nowhere"}, "no checkpoint at"),
        ({"expert": "random"}, "in place of an --expert"),
        ({"noise": True}, "--noise is not for --checkpoint: leave it out; --temperature makes its actions random"),
        ({"dagger": "shipped"}, "--dagger is not for --checkpoint"),
        ({"train_steps": 5}, "--train-steps is not for --checkpoint"),
        ({"temperature": -1.0}, "--temperature -1.0: at least 0"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"sampling_seed": -1}, "--sampling-seed -1"),
        ({"checkpoint": None, "temperature": 0.5}, "--temperature is for --checkpoint"),
        ({"checkpoint": None, "temperature": 0.0}, "--temperature is for --checkpoint"),
        ({"checkpoint": None, "sampling_seed": 1}, "--sampling-seed is for --checkpoint"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_played(
    run: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        collect(asked(run, tmp_path / "data", **wrong))
    assert not (tmp_path / "data").exists()


def test_a_checkpoint_of_other_spaces_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not know Acrobot-v1"):
        collect(asked(run, tmp_path, env=("Acrobot-v1",)))


def test_a_checkpoint_that_changes_meanwhile_is_not_played(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gato_agent.commands import collect as module

    module._load.cache_clear()
    monkeypatch.setattr(module.Trained, "named", classmethod(lambda cls, _: cls(run / "model.safetensors", "ab" * 32)))
    with pytest.raises(GatoError, match="changed while it was in use"):
        collect(asked(run, tmp_path))
