"""Collecting is reproducible byte for byte, resumes after a kill, and loses no episode."""

import io
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Dict, Discrete
from rich.console import Console

from gato_agent.envs.errors import EnvironmentFault, GatoError, UsageError
from gato_agent.envs.io.progress import progress
from gato_agent.rollouts.collection import episode_worker as player
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage import writer as commit
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from tests.helpers.episodes import contents
from tests.helpers.paths import ROOT
from tests.helpers.testing_env import TestingEnv


class Faulty(TestingEnv):
    """Environment that raises in the second step of seed 3, by default."""

    faulty = True

    def step(self, action):
        if self.seed == 3 and self.t == 1 and self.faulty:
            raise RuntimeError("the wheel came off")
        return super().step(action)


class Goal(TestingEnv):
    """Environment that reports success at the second step of even seeds, and never for seed 1."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, info | ({} if self.seed == 1 else self.success())

    def success(self):
        return {"success": float(self.t == 2 and self.seed % 2 == 0)}


class Empty(TestingEnv):
    """Environment with an empty observation space."""

    def __init__(self):
        super().__init__()
        self.observation_space = Dict()


gym.register("Faulty-v0", entry_point=lambda **kwargs: Faulty(**kwargs))
gym.register("Goal-v0", entry_point=lambda **kwargs: Goal(**kwargs))
gym.register("Wide-v0", entry_point=lambda: TestingEnv(action_space=gym.spaces.Sequence(Discrete(2))))
gym.register("Empty-v0", entry_point=lambda: Empty())


def config(out: Path, *env: str, expert: str = "random", episodes: int = 8, **more) -> CollectConfig:
    settings = {"workers": 0, "compact": False} | more
    return CollectConfig(env=env or ("CartPole-v1",), expert=expert, episodes=episodes, out=out, **settings)


@pytest.mark.parametrize("expert", ["random", "catalogue"])
def test_data_repeat_byte_for_byte(tmp_path, expert):
    envs = "CartPole-v1", "MountainCarContinuous-v0"
    for name in ("a", "b"):
        collect(config(tmp_path / name, *envs, expert=expert, episodes=3, noise=True, compact=True))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 2 * (1 + 2)


def test_an_episode_does_not_depend_on_those_before_it(tmp_path):
    collect(config(tmp_path / "whole", noise=True, episodes=6, compact=True))
    collect(config(tmp_path / "parts", noise=True, episodes=2, seed=4))
    collect(config(tmp_path / "parts", noise=True, episodes=3))
    collect(config(tmp_path / "parts", noise=True, episodes=6, compact=True))
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_what_is_there_is_not_made_again(tmp_path, capsys):
    for seed in (0, 1, 3):
        collect(config(tmp_path, episodes=1, seed=seed))
    (store,) = open_stores(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in store.shard_paths()}
    capsys.readouterr()
    collect(config(tmp_path, episodes=4))
    assert "3 of 4 episodes are already collected" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in store.shard_paths() if path in times} == times
    assert (len(times), store.indices()) == (3, [0, 1, 2, 3])


def test_an_episode_is_what_happened(tmp_path):
    collect(config(tmp_path, episodes=3))
    (store,) = open_stores(tmp_path)
    for seed in range(3):
        episode = store.read(seed)
        env = gym.make("CartPole-v1")
        obs, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(episode.observations[""][0], obs)
        for t, action in enumerate(episode.actions[""]):
            obs, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_array_equal(episode.observations[""][t + 1], obs)
            assert episode.rewards[t] == reward
        assert (episode.terminated, episode.truncated) == (terminated, truncated)
        assert episode.observations[""].dtype == np.float32
        assert episode.seed == seed
        assert episode.success is None
        assert episode.labels is None
        assert episode.provenance["env_id"] == "CartPole-v1"
        assert episode.provenance["expert"]["kind"] == "random"
        assert episode.provenance["noise"] == 0.0


def test_noise_executes_other_actions_and_keeps_the_experts(tmp_path):
    collect(config(tmp_path, "MountainCarContinuous-v0", expert="catalogue", noise=True, episodes=8))
    (store,) = open_stores(tmp_path)
    episodes = [store.read(seed) for seed in range(8)]
    noisy = [episode for episode in episodes if episode.provenance["noise"]]
    assert 2 < len(noisy) < 8
    for episode in episodes:
        differ = (episode.targets[""] != episode.actions[""]).any(1)
        assert differ.any() == (episode in noisy) == (episode.labels is not None)
        assert differ.mean() < 0.6
    from gato_agent.rollouts.experts.load import load_expert

    expert = load_expert("catalogue", store.env_id, store.observation_space, store.action_space)
    whole = noisy[0]
    starts = np.zeros(len(whole), np.bool_)
    batch = expert.act(whole.observations[""][:-1], starts)  # a batch rounds differently in the last bits
    np.testing.assert_allclose(batch, whole.targets[""], atol=1e-5)


def test_success_at_any_step_is_success(tmp_path):
    collect(config(tmp_path, "Goal-v0", episodes=4))
    (store,) = open_stores(tmp_path)
    assert [store.read(seed).success for seed in range(4)] == [True, None, True, False]


def test_the_summary_and_the_lines_say_what_was_collected(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commit, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("gato_agent.envs.io.progress.PRINT_EVERY", 0.0)
    collect(config(tmp_path, expert="catalogue", episodes=4))
    out = capsys.readouterr().out
    assert out.startswith("CartPole-v1: collecting 4 episodes\n")
    line = (
        r"CartPole-v1: [123] of 4 episodes, [\d,]+ steps/s, mean return 500.00, catalogue expert 500.00, 0:00:\d\d left"
    )
    assert re.search(line, out)
    assert re.search(r"CartPole-v1 +catalogue +4 +4 +2,000 +500.00 +500.00 +0.\d\d", out)


def test_an_environment_with_other_arguments_is_not_compared_with_the_catalogue(tmp_path, capsys):
    collect(config(tmp_path, "Pendulum-v1", expert="catalogue", episodes=1, env_kwargs='{"g": 1.62}'))
    out = capsys.readouterr().out
    assert "catalogue expert" not in out and "catalogue:" not in out
    assert re.search(r"Pendulum-v1 +catalogue +1 +1 +200 +-[\d.]+ +0.\d\d", out)


def test_a_module_is_imported_once_and_never_stored(tmp_path, capsys):
    collect(config(tmp_path, "tests.helpers.testing_env:Testing-v0", episodes=1))
    assert [path.name for path in tmp_path.iterdir()] == ["Testing-v0"]
    (store,) = open_stores(tmp_path)
    assert store.env_id == store.read(0).provenance["env_id"] == "Testing-v0"
    assert "testing_env" not in capsys.readouterr().out
    assert not [name for name, data in contents(tmp_path).items() if b"testing_env" in data]
    collect(config(tmp_path / "known", "math:CartPole-v1", expert="catalogue", episodes=1))  # its expert is found
    assert [path.name for path in (tmp_path / "known").iterdir()] == ["CartPole-v1"]


def test_a_terminal_gets_a_bar_instead_of_lines():
    out = io.StringIO()
    with progress(Console(file=out, force_terminal=True, width=120), "Thing-v0", 10, "episodes", 2) as update:
        update(10, "mean return 1.00")
    assert "Thing-v0" in out.getvalue()
    assert "10/10" in out.getvalue()
    assert "10 of 10" not in out.getvalue()


def test_an_environment_that_raises_loses_nothing(tmp_path, monkeypatch):
    said = "Faulty-v0: step 1 of seed 3 raised RuntimeError: the wheel came off; all other episodes are saved"
    with pytest.raises(EnvironmentFault, match=said):
        collect(config(tmp_path, "Faulty-v0", "Goal-v0", episodes=6))
    assert [store.indices() for store in open_stores(tmp_path)] == [[0, 1, 2, 4, 5], [0, 1, 2, 3, 4, 5]]
    monkeypatch.setattr(Faulty, "faulty", False)
    collect(config(tmp_path, "Faulty-v0", episodes=6))
    assert open_stores(tmp_path)[0].indices() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": True}, "--noise .false, now true"),
        ({"env_kwargs": '{"sutton_barto_reward": true}'}, "--env-kwargs"),
        ({"expert": "catalogue"}, "--expert .random .*, now catalogue CartPole-v1"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused(tmp_path, change, message):
    collect(config(tmp_path, episodes=1))
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=f"collected with another {message}.*another --out, or delete the folder"):
        collect(config(tmp_path, episodes=2, **change))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": ()}, "--env: name at least one environment"),
        ({"suite": ("nothing",)}, "--suite nothing: choose from atari, babyai, "),
        ({"workers": -1}, "--workers -1: at least 0"),
        ({"timeout": 0.0}, "--timeout 0.0: it must be above 0"),
        ({"env": ("CartPole-v1", "Wide-v0")}, "Wide-v0: its episodes cannot be tokenized: "),
        ({"env": ("Empty-v0",)}, "Empty-v0: its episodes cannot be tokenized: "),
        ({"episodes": 0}, "--episodes 0"),
        ({"seed": -1}, "--seed -1: at least 0"),
        ({"num_threads": 0}, "--num-threads 0: at least 1"),
        ({"expert": "train", "train_steps": 0}, "--train-steps 0: at least 1"),
        ({"env_kwargs": "[]"}, "--env-kwargs"),
        ({"env": ("CartPole-v7",)}, "unknown environment CartPole-v7: did you mean"),
        ({"env": ("CartPole-v1", "Nothing-v0")}, "unknown environment Nothing-v0"),
        ({"expert": "nothing.zip"}, "no expert 'nothing.zip'"),
    ],
)
def test_bad_arguments_leave_no_folder(tmp_path, change, message):
    arguments = {"env": ("CartPole-v1",), "expert": "random", "out": tmp_path / "data"} | change
    with pytest.raises(UsageError, match=re.escape(message)):
        collect(CollectConfig(**arguments))
    assert not (tmp_path / "data").exists()


def test_importing_it_for_help_is_quick():
    program = (
        "import sys, gato_agent.rollouts.collection.collect\nassert not {'torch', 'stable_baselines3'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_an_interrupt_keeps_complete_episodes(tmp_path, monkeypatch):
    play = player.Player.play
    played: list[Episode] = []

    def interrupted(*arguments):
        if len(played) == 5:
            raise KeyboardInterrupt
        played.append(play(*arguments))
        return played[-1]

    monkeypatch.setattr(player.Player, "play", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(config(tmp_path))
    assert open_stores(tmp_path)[0].indices() == [0, 1, 2, 3, 4]


def test_a_folder_in_use_is_refused(tmp_path):
    collect(config(tmp_path, episodes=1))
    (store,) = open_stores(tmp_path)
    header = {key: value for key, value in store.header.items() if key != "format"}
    with EpisodeStore.create(tmp_path, header), pytest.raises(UsageError, match="another `gato-agent collect`"):
        collect(config(tmp_path, episodes=2))


def out_of_space(observation_space, action_space):
    """Expert that returns 2 in Discrete(2) from the third step on."""

    class Wild:
        def predict(self, observation, state=None, episode_start=None, deterministic=True):
            return (observation[..., 1] >= 2).astype(np.int64) * 2, None

    return Wild()


@pytest.mark.parametrize("noise", [False, True])
def test_an_expert_that_leaves_the_action_space_is_named(tmp_path, monkeypatch, noise):
    monkeypatch.setattr("gato_agent.rollouts.collection.noise.LEVELS", (0.0,))
    settings = config(tmp_path, "tests.helpers.testing_env:Testing-v0", expert=f"{__name__}:out_of_space", noise=noise)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[out_of_space.__module__])
    with pytest.raises(
        GatoError, match=r"8 failures: Testing-v0: step 2 of seed 0 has the action .*2.* is not in Discrete\(2\)"
    ):
        collect(settings)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_suite_is_all_of_its_tasks(tmp_path):
    collect(CollectConfig(env=("CartPole-v1", "Taxi-v4"), suite=("toytext",), episodes=2, workers=0, out=tmp_path))
    found = {store.env_id: len(store.indices()) for store in open_stores(tmp_path)}
    assert found == {"CartPole-v1": 2, "CliffWalking-v1": 2, "FrozenLake-v1": 2, "Taxi-v4": 2}


def test_a_task_that_cannot_be_compacted_does_not_keep_the_others_from_it(tmp_path, capsys):
    """All episodes are saved, and the summary is shown."""
    settings = {"env": ("CartPole-v1", "MountainCar-v0"), "expert": "random", "workers": 0, "out": tmp_path}
    collect(CollectConfig(**settings, episodes=2, compact=False))
    (group,) = (tmp_path / "CartPole-v1").glob("*.group.safetensors")
    data = bytearray(group.read_bytes())
    data[data.index(open_stores(tmp_path)[0].read(1).observations[""].tobytes())] ^= 1
    group.write_bytes(data)
    with pytest.raises(GatoError, match=r"group\.safetensors: episode 1 is damaged"):
        collect(CollectConfig(**settings, episodes=3))
    shown = capsys.readouterr().out
    assert "CartPole-v1: " in shown and "is damaged" in shown and "MountainCar-v0" in shown
    damaged, other = open_stores(tmp_path)
    assert damaged.indices() == other.indices() == [0, 1, 2]
    assert other.pending() == [] and damaged.pending()
