"""`collect --dagger`: the agent acts, the expert says what it would do, and training reads both folders."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.collect import CollectConfig, Trained, collect
from gato_agent.dataset.load import load_data
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.make import make_vector
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.episodes import contents

CARTPOLE = "CartPole-v1"


def shaken(folder: Path, seed: int = 0) -> Path:
    """The shipped weights, shaken: an agent that knows CartPole badly, and nothing else."""
    checkpoint, generator = Checkpoint.load(None), np.random.default_rng(seed)
    for weights in checkpoint.model.parameters():
        noise = generator.normal(size=weights.shape, scale=0.7 * float(weights.data.std()))
        weights.data += weights.data.new_tensor(noise)
    dataclasses.replace(checkpoint, tasks={CARTPOLE: checkpoint.tasks[CARTPOLE]}).save(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shaken(tmp_path / "run")


def asked(run: Path, out: Path, **more: Any) -> CollectConfig:
    config = CollectConfig((CARTPOLE,), dagger=str(run), dagger_beta=0.3, episodes=6, workers=0, out=out)
    return dataclasses.replace(config, **more)


def test_the_agent_acts_on_the_true_stream_and_the_expert_labels_it(run: Path, tmp_path: Path) -> None:
    collect(asked(run, tmp_path / "data"))
    envs = make_vector(CARTPOLE, 1)
    agent = Agent.from_pretrained(run, envs, device="cpu")
    expert = load_expert("catalogue", CARTPOLE, envs.single_observation_space, envs.single_action_space)
    store, own, taught = EpisodeStore(tmp_path / "data" / CARTPOLE), 0, 0
    for seed in store.indices():
        episode = store.read(seed)
        observations, _ = envs.reset(seed=[seed])
        agent.reset(1)
        for t, (action, label) in enumerate(zip(episode.actions[""], episode.targets[""], strict=True)):
            np.testing.assert_array_equal(observations[0], episode.observations[""][t])
            assert expert.act(observations, np.array([t == 0]))[0] == label
            agent.follow(observations, np.array([action]))
            own += (chosen := int(agent._stepper.decoder.logits[0][0].argmax())) == action
            taught += label == action != chosen
            assert action in (chosen, label)
            observations, *_ = envs.step(np.array([action]))
    steps = sum(len(store.read(seed)) for seed in store.indices())
    assert own + taught == steps
    assert 0 < taught < own < steps


def test_the_files_are_the_same_whoever_played_them_and_are_completed(run: Path, tmp_path: Path) -> None:
    for name, workers in (("here", 0), ("there", 2)):
        collect(asked(run, tmp_path / name, workers=workers))
    collect(asked(run, tmp_path / "parts", episodes=2))
    collect(asked(run, tmp_path / "parts"))
    assert contents(tmp_path / "here") == contents(tmp_path / "there") == contents(tmp_path / "parts")
    assert verify(tmp_path / "here") == (6, [])


def test_what_would_mix_two_agents_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    collect(asked(run, out, episodes=1))
    with pytest.raises(UsageError, match=r"another --dagger or --dagger-beta \(dagger \w{8} 0.3, now dagger \w{8} 0.3"):
        collect(asked(shaken(tmp_path / "other", seed=1), out))
    with pytest.raises(UsageError, match=r"0.3, now dagger \w{8} 0.9\)"):
        collect(asked(run, out, dagger_beta=0.9))
    with pytest.raises(UsageError, match="now none"):
        collect(asked(run, out, dagger=None))
    collect(asked(run, tmp_path / "plain", dagger=None, episodes=1))
    with pytest.raises(UsageError, match="none, now dagger"):
        collect(asked(run, tmp_path / "plain"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"env": ("Taxi-v4",)}, "does not know Taxi-v4"),
        ({"dagger": "nowhere"}, "no checkpoint at"),
        ({"noise": True}, "use one of them"),
        ({"dagger_beta": 1.5}, "from 0 to 1"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_played(
    run: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        collect(asked(run, tmp_path / "data", **wrong))
    assert not (tmp_path / "data").exists()


def test_of_a_suite_only_what_the_agent_knows_is_played(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(asked(run, tmp_path / "data", env=(), suite=("classic",), episodes=1))
    (store,) = open_stores(tmp_path / "data")
    assert store.env_id == CARTPOLE
    assert "--dagger does not know Acrobot-v1, MountainCar-v0" in capsys.readouterr().out


def test_a_checkpoint_that_is_trained_further_meanwhile_is_not_played(run: Path, tmp_path: Path) -> None:
    learner = Trained.named(str(run))
    shaken(run, seed=1)
    with pytest.raises(GatoError, match="changed while it was in use: collect with a copy"):
        learner.knows(CARTPOLE)


def test_training_reads_both_folders_as_one_task(run: Path, tmp_path: Path) -> None:
    collect(asked(run, tmp_path / "plain", dagger=None, episodes=4))
    collect(asked(run, tmp_path / "dagger"))
    config = GatoConfig.nano()
    plain, dagger = (load_data(tmp_path / name, config, None).tokenized[0] for name in ("plain", "dagger"))
    both = load_data([tmp_path / "plain", tmp_path / "dagger"], config, None, holdout=0.5)
    (learned,), (held_out,) = both.tokenized, both.held_out
    assert list(both.tasks) == [CARTPOLE]
    for name in ("rows", "labels"):
        one, other = (np.split(getattr(task, name), task.ends) for task in (plain, dagger))
        np.testing.assert_array_equal(getattr(learned, name), np.concatenate(one[:2] + other[:3]))
        np.testing.assert_array_equal(getattr(held_out, name), np.concatenate(one[2:] + other[3:]))
    assert (dagger.rows[:, -1] != dagger.labels[:, 0]).any()  # the model reads what was executed


def test_folders_that_disagree_on_a_task_are_not_mixed(run: Path, tmp_path: Path) -> None:
    collect(asked(run, tmp_path / "plain", dagger=None, episodes=1))
    collect(asked(run, tmp_path / "rough", dagger=None, episodes=1, env_kwargs='{"sutton_barto_reward": true}'))
    with pytest.raises(UsageError, match=r"CartPole-v1 has another --env-kwargs in .*rough"):
        load_data([tmp_path / "plain", tmp_path / "rough"], GatoConfig.nano(), None)
