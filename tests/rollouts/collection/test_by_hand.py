"""`collect --expert human`: a person's episodes in the store, gone back in, dropped, kept and resumed."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Dict, Discrete, Text

from gato_agent.envs.errors import EnvironmentFault, UsageError
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.paths import ROOT
from tests.helpers.person import Frame, Person
from tests.helpers.testing_env import TestingEnv

TESTING = "tests.helpers.testing_env:Testing-v0"  # three steps, a reward of 1 each, keys 0 and 1
REST = '{"": 0, "left": 1}'  # an action without a key: in real time


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    Person(monkeypatch, [])  # without a script a window fails at once
    pygame.quit()


def by_hand(out: Path, episodes: int = 1, env: str = TESTING, **options: Any) -> CollectConfig:
    return CollectConfig((env,), expert="human", episodes=episodes, out=out, **options)


def actions(out: Path, env_id: str = "Testing-v0") -> dict[int, list[Any]]:
    assert verify(out)[1] == []
    store = EpisodeStore(out / env_id)
    return {seed: store.read(seed).actions[""].tolist() for seed in store.indices()}


def played(monkeypatch: pytest.MonkeyPatch, out: Path, *frames: Frame, **options: Any) -> Person:
    person = Person(monkeypatch, frames)
    collect(by_hand(out, **options))
    assert not person.frames, "frames are left over"
    return person


def test_each_key_is_a_step_and_enter_keeps_the_episode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    person = played(
        monkeypatch, tmp_path, "", "1", "x", "0", "1", "", "return", "0", "0", "0", "return", episodes=2
    )  # fmt: skip
    assert actions(tmp_path) == {0: [1, 0, 1], 1: [0, 0, 0]}
    titles = [lines[0] for lines in person.shown]
    assert titles[0] == "Testing-v0: seed 0, step 0, return 0.00"
    assert titles[6] == "Testing-v0: seed 0, step 3, return 3.00, over"
    assert person.shown[0][2] == "press a key to start: 0, 1" and "Enter: keep" in person.shown[6][3]
    assert "seed 1, step 0, return 0.00, episode 2" in person.shown[7][1]
    assert [int(image[0, 0, 0]) for image in person.images] == [0, 0, 1, 1, 2, 3, 3, 0, 1, 2, 3]
    about = EpisodeStore(tmp_path / "Testing-v0").read(0).provenance
    assert about["expert"]["kind"] == "human" and about["noise"] == 0.0
    assert "torch" not in about["versions"]


def test_backspace_goes_back_a_step_before_and_after_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    person = played(monkeypatch, tmp_path, "backspace", "1", "0", "backspace", "1", "1", "backspace", "0", "return")
    assert actions(tmp_path) == {0: [1, 1, 0]}
    steps = [lines[0].partition("step ")[2][0] for lines in person.shown]
    assert "".join(steps) == "001212323"
    assert all("did not repeat" not in line for lines in person.shown for line in lines)


def test_backspace_repeatedly_reaches_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played(monkeypatch, tmp_path, "1", "1", "backspace", "backspace", "backspace", "0", "0", "0", "return")
    assert actions(tmp_path) == {0: [0, 0, 0]}


def test_delete_plays_the_same_seed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played(monkeypatch, tmp_path, "1", "delete", "1", "1", "1", "delete", "0", "0", "0", "return")
    assert actions(tmp_path) == {0: [0, 0, 0]}


def test_time_runs_after_the_first_key_where_there_is_an_action_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    length = {"env_kwargs": '{"length": 6}', "keys": REST, "fps": 20.0}
    person = played(monkeypatch, tmp_path, "", "+left", "", "-left", "left", "", "", "return", **length)
    assert actions(tmp_path) == {0: [1, 1, 0, 1, 0, 0]}
    assert person.rates == [30.0, 30.0, *[20.0] * 5, 30.0]


def test_any_key_starts_and_f1_and_a_lost_focus_pause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frames = ["x", "+left", "f1", "", "left", "leave", "", "x", "", "return"]
    person = played(monkeypatch, tmp_path, *frames, env_kwargs='{"length": 5}', keys=REST)
    assert actions(tmp_path) == {0: [0, 1, 1, 0, 0]}
    assert sum("press a key to start" in lines[2] for lines in person.shown) == 5


def test_backspace_goes_back_a_second_in_real_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = {"env_kwargs": '{"length": 8}', "keys": REST, "fps": 4.0}
    held = ["+left", "", "", "", "", "backspace", "", "x", "", "-left", "", "", "", "", "return"]
    played(monkeypatch, tmp_path, *held, **options)
    assert actions(tmp_path) == {0: [1, 1, 1, 0, 0, 0, 0, 0]}


@pytest.mark.parametrize("leave", ["escape", "close"])
def test_who_quits_keeps_finished_episodes_and_goes_on_with_the_next_seeds(
    leave: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played(monkeypatch, tmp_path, "1", "1", "1", "return", "0", leave, episodes=3)
    assert actions(tmp_path) == {0: [1, 1, 1]}
    assert "1 of 3 episodes" in capsys.readouterr().out
    played(monkeypatch, tmp_path, "a", "a", "b", leave, episodes=3, keys='{"a": 0, "b": 1}')
    assert actions(tmp_path) == {0: [1, 1, 1], 1: [0, 0, 1]}
    played(monkeypatch, tmp_path, "0", "0", "0", "return", episodes=3)
    assert sorted(actions(tmp_path)) == [0, 1, 2]
    collect(by_hand(tmp_path, 3))  # nothing is missing: no window


def interrupt(window: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("running", [True, False])
def test_an_interrupt_keeps_finished_episodes(running: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frames: list[Frame] = ["1", "1", "1", *(["return", "0"] if running else []), interrupt]
    with pytest.raises(KeyboardInterrupt):
        played(monkeypatch, tmp_path, *frames, episodes=3)
    assert actions(tmp_path) == {0: [1, 1, 1]}


def test_a_broken_episode_fails_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = {"env": "tests.helpers.testing_env:Burning-v0", "env_kwargs": '{"fault_step": 1, "fault_seed": 0}'}
    with pytest.raises(EnvironmentFault, match=r"step 1 of seed 0 raised ValueError: the motor is on fire"):
        played(monkeypatch, tmp_path, "1", "1", *["0"] * 10, "return", episodes=2, **env)
    assert actions(tmp_path, "Burning-v0") == {1: [0] * 10}


def test_environments_are_played_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Person(monkeypatch, ["1", "1", "1", "return", "+left", *[""] * 20, "close"])
    collect(CollectConfig((TESTING, "MountainCar-v0"), expert="human", episodes=1, out=tmp_path))
    assert actions(tmp_path) == {0: [1, 1, 1]}
    assert actions(tmp_path, "MountainCar-v0") == {}


def test_observed_texts_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    space = Dict(mission=Text(20), t=Discrete(9))
    make = partial(TestingEnv, observation_space=space)
    monkeypatch.setattr(TestingEnv, "observe", lambda env: {"mission": f"go to {env.t}", "t": env.t})
    monkeypatch.setitem(gym.registry, "Mission-v0", EnvSpec("Mission-v0", entry_point=make))
    person = played(monkeypatch, tmp_path, "1", "0", "1", "return", env="Mission-v0")
    assert [lines[2] for lines in person.shown] == ["go to 0", "go to 1", "go to 2", "go to 3"]


def test_others_do_not_import_pygame() -> None:
    code = "import sys, gato_agent.commands.collect as _; print(not {'pygame', 'torch'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_an_environment_that_does_not_repeat_itself_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drift = iter(range(100))
    monkeypatch.setattr(TestingEnv, "observe", lambda env: np.array([next(drift), env.t], np.float64))
    person = played(monkeypatch, tmp_path, "1", "0", "backspace", "", "1", "1", "return")
    assert actions(tmp_path) == {0: [1, 1, 1]}
    assert [i for i, lines in enumerate(person.shown) if "did not repeat the same steps" in lines[2]] == [3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, r"plays in one window and one process: leave --workers 2 out"),
        ({"ray": "local"}, r"plays in one window and one process: leave --ray out"),
        ({"noise": True}, r"--expert human takes no --noise: leave it out"),
        ({"dagger": "shipped"}, r"--expert human takes no --dagger: leave it out"),
        ({"fps": 0.0}, r"--fps 0.0: it must be above 0, to 1000"),
        ({"fps": float("nan")}, r"--fps nan: it must be above 0"),
        ({"expert_statistics": "none"}, r"--expert human takes no --expert-statistics"),
        ({"keys": "left"}, r"--keys 'left' is not JSON .*: write"),
        ({"keys": "{}"}, r"--keys names no key: write --keys '{"),
        ({"keys": '{"": 0}'}, r"--keys names no key"),
        ({"keys": '{"lefft+up": 0}'}, r"--keys 'lefft\+up': there is no key 'lefft': keys are named a, 1, left"),
        ({"keys": '{"left": 2}'}, r"--keys 'left': 2 is not in Discrete\(2\): "),
        ({"keys": '{"left": "1"}'}, r"--keys 'left': '1' is not in Discrete\(2\): "),
        ({"keys": '{"left": true}'}, r"--keys 'left': True is not in Discrete\(2\): "),
        ({"keys": '{"left": [1]}'}, r"--keys 'left': \[1\] is not in Discrete\(2\): "),
        ({"keys": '{"left": null}'}, r"--keys 'left': None is not in Discrete\(2\): "),
        ({"keys": '{"escape": 1}'}, r"--keys 'escape': escape controls the collection: use another key"),
        ({"expert": "random", "keys": "{}"}, r"--keys is for --expert human: leave it out"),
        ({"expert": "random", "fps": 3.0}, r"--fps is for --expert human: leave it out"),
    ],
)
def test_a_wrong_option_is_one_error_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        collect(CollectConfig((TESTING,), out=tmp_path, **{"expert": "human"} | options))
    assert list(tmp_path.iterdir()) == []


def test_no_display_no_pygame_and_no_images_are_one_error_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^Identity-v0 cannot render 'rgb_array'.*; --expert human shows rgb_array"):
        collect(by_hand(tmp_path, env="tests.helpers.testing_env:Identity-v0"))
    pygame.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "no such driver")
    with pytest.raises(UsageError, match=r"^--expert human: no window can be opened \(.*\): run it on a desktop"):
        collect(by_hand(tmp_path))
    monkeypatch.delenv("SDL_VIDEODRIVER")
    pygame.quit()
    monkeypatch.setenv("DISPLAY", ":none")
    with pytest.raises(UsageError, match=r"^--expert human: no window can be opened \(.*\): run it on a desktop"):
        collect(by_hand(tmp_path))
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(UsageError, match=r"^--expert human opens a window, and there is no display: "):
        collect(by_hand(tmp_path))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(
        UsageError, match=r"^--expert human needs pygame \(.*pip install 'gymnasium\[classic-control\]'"
    ):
        collect(by_hand(tmp_path))
    assert list(tmp_path.iterdir()) == []
