"""Keys to actions: defaults, `--keys`, environments' own tables, combinations, sums and gamepads."""

import json
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

from gato_agent.envs.errors import UsageError
from gato_agent.rollouts.experts.human.gamepads import Gamepads
from gato_agent.rollouts.experts.human.keys import KeyMap, find_keys
from gato_agent.rollouts.experts.human.known_keys import KNOWN
from tests.helpers.testing_env import TestingEnv


@pytest.fixture(autouse=True)
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame.quit()
    pygame.display.init()
    yield
    pygame.quit()


def keys_of(space: Space[Any], table: Any = None, env_id: str = "Testing-v0") -> KeyMap:
    return find_keys(TestingEnv(action_space=space), env_id, None if table is None else json.dumps(table))


def pressed(keys: KeyMap, *names: str) -> Any:
    action = keys.action(dict.fromkeys(names, 1.0))
    return action.tolist() if isinstance(action, np.ndarray | np.generic) else action


@pytest.mark.parametrize(
    ("env_id", "space", "names", "action"),
    [
        ("CartPole-v1", Discrete(2), ["left"], 0),
        ("CartPole-v1", Discrete(2), ["d"], 1),
        ("MountainCar-v0", Discrete(3), [], 1),
        ("LunarLander-v3", Discrete(4), ["up"], 2),
        ("LunarLander-v3", Box(-1, 1, (2,)), ["up", "left"], [1, -1]),
        ("CarRacing-v3", Box(np.float32([-1, 0, 0]), np.float32(1)), ["left", "up"], [-1, 1, 0]),
        ("CarRacing-v3", Discrete(5), ["up"], 3),
        ("FrozenLake-v1", Discrete(4), ["down"], 1),
        ("FrozenLake-v1", Discrete(4), [], None),
        ("BabyAI-GoToLocal-v0", Discrete(7), ["space"], 5),
        ("MinAtar/Breakout-v1", Discrete(3), ["right"], 2),
        ("Mine-v0", Discrete(3, start=-1), ["0"], -1),
        ("Mine-v0", Discrete(3), [], None),
        ("Mine-v0", Box(-2, 2, (1,)), ["left"], [-2]),
        ("Mine-v0", Box(-2, 2, (1,)), ["left", "right"], [0]),
        ("Mine-v0", Box(-2, 2, ()), ["right"], 2),
        ("Mine-v0", Box(1, 3, (1, 2)), ["right", "up"], [[3, 3]]),
        ("Mine-v0", Box(1, 3, (1, 2)), [], [[1, 1]]),
        ("Mine-v0", Box(-np.inf, np.inf, (3,), np.float64), ["right", "s", "a"], [1, 0, -1]),
        ("Mine-v0", Box(0, 255, (2,), np.uint8), ["up"], [0, 255]),
    ],
)
def test_default_keys(env_id: str, space: Space[Any], names: list[str], action: Any) -> None:
    keys = keys_of(space, env_id=env_id)
    assert pressed(keys, *names) == action
    if action is not None:
        assert space.contains(keys.action(dict.fromkeys(names, 1.0)))


@pytest.mark.parametrize(
    "space",
    [Discrete(11), Box(-1, 1, (6,)), MultiDiscrete([2, 2]), MultiBinary(2), Dict(a=Discrete(2)), Text(3)],
    ids=str,
)
def test_other_spaces_need_keys(space: Space[Any]) -> None:
    with pytest.raises(UsageError, match=r"^Testing-v0: there are no default keys for its actions, .* --keys '{"):
        keys_of(space)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (Discrete(11), 10),
        (MultiDiscrete([2, 3]), [1, 2]),
        (MultiBinary(2), [1, 0]),
        (Text(3), "ab"),
        (Box(-1, 1, (6,)), [0, 0, 1, 0, 0, 0.5]),
        (Dict(a=Discrete(2), b=Tuple([Box(-1, 1, (1,)), Discrete(3)])), {"a": 1, "b": [[0.5], 2]}),
    ],
    ids=str,
)
def test_keys_name_actions_of_any_space(space: Space[Any], value: Any) -> None:
    keys = keys_of(space, {"space": value})
    assert space.contains(keys.action({"space": 1.0}))
    if not isinstance(space, Box):
        assert keys.rest is None and keys.action({"x": 1.0}) is None


@pytest.mark.parametrize("value", [{"a": 1}, {"a": 1, "b": [[0.5]]}, {"a": 1, "b": [[2.0], 0]}, [1], 3, None, "x"])
def test_a_value_that_is_not_in_a_nested_space_is_refused(value: Any) -> None:
    space = Dict(a=Discrete(2), b=Tuple([Box(-1, 1, (1,)), Discrete(3)]))
    with pytest.raises(UsageError, match=r"^--keys 'space': .* is not in Dict"):
        keys_of(space, {"space": value})


def test_combinations_are_those_of_play_or_names_joined_by_a_plus() -> None:
    keys = keys_of(Discrete(6), {"": 0, "a": 1, "w": 2, "wa": 3, "a+left shift": 4, "+": 5})
    assert [pressed(keys, *names) for names in ([], ["a"], ["w"], ["a", "w"], ["x"], ["+"])] == [0, 1, 2, 3, 0, 5]
    assert pressed(keys, "x", "left shift", "a") == 4
    assert pressed(keys, "left shift") == 0 and pressed(keys, "left") == 1  # arrows stand for letters


def test_the_latest_of_two_keys_counts() -> None:
    keys = keys_of(Discrete(2), {"left": 0, "right": 1})
    assert pressed(keys, "left", "right") == 1 and pressed(keys, "right", "left") == 0


def test_a_box_adds_keys_and_combinations_and_stays_within_its_bounds() -> None:
    keys = keys_of(Box(-1, 1, (2,), np.float64), {"a": [0.75, 0], "b": [0.75, 0.5], "ab": [-1, 0], "c": [0, 0.5]})
    assert pressed(keys, "a", "c") == [0.75, 0.5] and pressed(keys, "a", "b", "c") == [-1, 0.5]
    assert keys.action({"b": 0.5}).tolist() == [0.375, 0.25]


class OwnKeys(TestingEnv):
    table: Any = None

    def get_keys_to_action(self) -> Any:
        return self.table() if callable(self.table) else self.table


def own(table: Any, space: Space[Any]) -> KeyMap:
    env = OwnKeys(action_space=space)
    env.table = table
    return find_keys(env, "CartPole-v1", None)


def test_an_environment_has_its_own_keys() -> None:
    atari = own({("e",): 0, ("w",): 1, ("w", " "): 2, (ord("x"),): 3}, Discrete(4))
    assert [pressed(atari, *names) for names in ([], ["up"], ["space", "w"], ["x"])] == [0, 1, 2, 3]
    sdl1 = own({(): 1, (276,): 0, (275,): 2, (275, 276): 1}, Discrete(3))  # as MountainCar has them
    assert [pressed(sdl1, *names) for names in ([], ["left"], ["right"])] == [1, 0, 2]
    assert pressed(own({}, Discrete(2)), "right") == 1  # CartPole's default
    assert pressed(own({"wa": 1, "w": 0}, Discrete(2)), "a", "w") == 1


@pytest.mark.parametrize("table", [{"a": 7}, {("a",): "b"}, 3, lambda: 1 / 0])
def test_a_broken_table_of_an_environment_is_one_error(table: Any) -> None:
    with pytest.raises(UsageError, match=r"^the environment's get_keys_to_action is broken \(.*\): give --keys"):
        own(table, Discrete(2))


def test_known_keys_exist_and_fit_their_environments() -> None:
    made = 0
    for env_id in ("CartPole-v1", "MountainCar-v0", "Acrobot-v1", "FrozenLake-v1", "CliffWalking-v1", "Taxi-v3"):
        if env_id in gym.registry:
            env = gym.make(env_id)
            assert len(find_keys(env, env_id, None).names) >= 2
            env.close()
            made += 1
    assert made >= 4
    for _, table in KNOWN:
        largest = max((value for value in table.values() if isinstance(value, int)), default=0)
        space = Discrete(largest + 1) if largest else Box(-1, 1, (len(table[""]),))
        assert keys_of(space, table).names


class Pad:
    def __init__(self) -> None:
        self.axes, self.hat, self.buttons = [0.0, 0.0], (0, 0), [0] * 8

    def get_numaxes(self) -> int:
        return len(self.axes)

    def get_axis(self, axis: int) -> float:
        return self.axes[axis]

    def get_numhats(self) -> int:
        return 1

    def get_hat(self, hat: int) -> tuple[int, int]:
        return self.hat

    def get_numbuttons(self) -> int:
        return len(self.buttons)

    def get_button(self, button: int) -> int:
        return self.buttons[button]


def test_a_gamepad_holds_keys_and_a_stick_is_a_share_of_them() -> None:
    pad = Pad()
    pads = Gamepads(lambda: [pad])
    assert pads.held() == {} and pads.pressed() == []
    pad.axes = [-0.4, 0.1]
    assert pads.held() == {"left": 0.4} and pads.pressed() == []
    assert keys_of(Box(-1, 1, (1,), np.float64)).action(pads.held()).tolist() == [-0.4]
    assert pressed(keys_of(Discrete(3), {"": 1, "left": 0}), *()) == 1
    assert keys_of(Discrete(3), {"": 1, "left": 0}).action(pads.held()) == 1  # less than half
    pad.axes, pad.hat, pad.buttons[0], pad.buttons[7] = [0.0, 0.9], (1, 1), 1, 1
    assert pads.pressed() == ["button 0", "button 7", "down", "return", "right", "space", "up"]
    assert pads.pressed() == []
    assert keys_of(Discrete(3), {"button 0": 2}).action(pads.held()) == 2
