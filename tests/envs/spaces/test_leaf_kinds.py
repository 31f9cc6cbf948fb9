"""Leaf kinds are modules of one folder: a new one goes through every part of the program, and no other file changes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiDiscrete, Sequence, Space, Text

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.train import train
from gato_agent.envs.errors import SpaceError
from gato_agent.envs.loop import steps
from gato_agent.envs.spaces import leaf_kinds
from gato_agent.envs.spaces.batch_of_one import batch_of_one, each_one, only_one
from gato_agent.envs.spaces.flatten import batch, columns, row, stack
from gato_agent.envs.spaces.leaf_table import LEAF_KINDS, find_leaf_kind, leaf_kind, register_leaf_kind, shipped
from gato_agent.envs.spaces.same_space import same_meaning
from gato_agent.envs.spaces.space_json import space_from_json, space_to_json
from gato_agent.envs.spaces.values import column_validator, validator
from gato_agent.inference.action_mask import ActionMasks
from gato_agent.inference.agent import Agent
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.task_folder import folder_of
from gato_agent.rollouts.storage.verify import verify
from gato_agent.tokens.space_tokenizer import SpaceTokenizer, Vocabulary
from gato_agent.training.config import TrainConfig
from tests.helpers.testing_env import IdentityEnv

MODULE = '''
import numpy as np
from gymnasium.spaces import Space
from gato_agent.envs.spaces.leaf_kind import LeafKind
from gato_agent.envs.spaces.paths import space_error

class Compass(Space):
    """Names of directions, clockwise from north."""

    def __init__(self, names=("north", "east", "south", "west"), seed=None):
        super().__init__((), np.int8, seed)
        self.names = tuple(names)

    is_np_flattenable = False

    def sample(self, mask=None, probability=None):
        return self.names[self.np_random.integers(len(self.names))]

    def contains(self, x):
        return x in self.names

    def __eq__(self, other):
        return isinstance(other, Compass) and self.names == other.names

class CompassKind(LeafKind):
    space, scalar, objects = Compass, True, True

    def to_json(self, space):
        return {"names": list(space.names)}

    def from_json(self, json):
        return Compass(json["names"])

    def json_shape(self, json):
        return ()

    def limits(self, space):
        return np.int8(0).reshape(()), np.array(len(space.names) - 1, np.int8)

    def choices(self, space):
        return len(space.names)

    def column(self, space, path, values):
        if isinstance(values, np.ndarray) and values.dtype == np.int8:
            return values
        wrong = [name for name in values if name not in space.names]
        if wrong:
            raise space_error(path, f"no direction {wrong[0]!r}")
        return np.array([space.names.index(name) for name in values], np.int8)

    def sound(self, space, acted, bounds):
        return space.contains

    def row(self, space, column, index):
        return space.names[column[index]]

    def batch(self, space, column):
        return tuple(space.names[index] for index in column)

    def is_single(self, space, value):
        return isinstance(value, str)

    def same_meaning(self, a, b, acted):
        return a == b

KIND = CompassKind()
'''


@pytest.fixture
def compass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Space[Any]]]:
    """Class of the added space."""
    (tmp_path / "compass.py").write_text(MODULE)
    monkeypatch.setattr(leaf_kinds, "__path__", [*leaf_kinds.__path__, str(tmp_path)])
    added = {kind.space: kind for kind in shipped()}.items() - LEAF_KINDS.items()
    ((space, kind),) = [(space, kind) for space, kind in added if space.__name__ == "Compass"]
    register_leaf_kind(kind)
    yield space
    del LEAF_KINDS[space]
    sys.modules.pop(f"{leaf_kinds.__name__}.compass")


def test_every_class_of_the_table_has_a_module() -> None:
    assert {kind.space for kind in shipped()} == set(LEAF_KINDS)
    names = {Path(f"{module}").stem for path in leaf_kinds.__path__ for module in Path(path).glob("[a-z]*.py")}
    assert len(names) == len(LEAF_KINDS)


def test_a_module_adds_a_leaf_space(compass: type[Space[Any]]) -> None:
    space = Dict({"way": compass(), "x": Box(-1, 1, (2,))})
    values: list[Any] = [{"way": name, "x": np.zeros(2, np.float32)} for name in ("west", "east")]
    assert space_from_json(space_to_json(space)) == space
    assert same_meaning(space, space) and not same_meaning(compass(), compass(["left", "right"]))
    stacked = column_validator(space)(stack(space, values))
    assert stacked["way"].tolist() == [3, 1]
    assert [row(space, stacked, i)["way"] for i in range(2)] == ["west", "east"]
    assert batch(space, stacked)["way"] == ("west", "east")
    assert columns(space, batch(space, stacked))["way"].tolist() == [3, 1]
    assert only_one(space)(batch_of_one(space)(values[0]))["way"] == "west"
    assert each_one(compass(), ("west", "east"), 2) == ["west", "east"]
    assert validator(space)(values[1])["way"] == "east"
    with pytest.raises(SpaceError, match=r"^'way': no direction 'up'$"):
        validator(space)({**values[0], "way": "up"})


def test_its_values_are_tokens_and_can_be_masked(compass: type[Space[Any]]) -> None:
    tokenizer = SpaceTokenizer(compass(), compass(), Vocabulary(300))
    assert tokenizer.legal.tolist() == [[300 + 1024, 300 + 1028]]
    column = {"": np.array([2, 0], np.int8)}
    assert tokenizer.encode_observations(column).tokens.tolist() == [[1326], [1324]]
    assert tokenizer.decode_actions(tokenizer.encode_actions(column))[""].tolist() == [2, 0]
    allowed = ActionMasks(compass(), tokenizer).allowed([[0, 1, 0, 1], None])
    assert allowed is not None and allowed.tolist() == [[False, True, False, True], [True] * 4]


def test_an_agent_learns_and_plays_in_it(compass: type[Space[Any]], tmp_path: Path) -> None:
    gym.register("Compass-v0", lambda: IdentityEnv(compass()))
    try:
        data = tmp_path / "data"
        collect(CollectConfig(env=("Compass-v0",), expert="random", episodes=3, workers=0, out=data))
        store = EpisodeStore.open(folder_of(data, "Compass-v0"))
        assert set(store.read(0).actions[""].tolist()) <= {0, 1, 2, 3}
        assert store.action_space == compass()
        assert verify(data) == (3, [])
        run = train(TrainConfig(data=(data,), out=tmp_path / "run", steps=2, batch_size=1, num_threads=1, device="cpu"))
        checkpoint = Checkpoint.load(run)
        with make_agent_and_envs(checkpoint, "Compass-v0", 2) as (agent, envs):
            played = list(steps(agent, envs, range(2)))
        action, _ = Agent(checkpoint, checkpoint.tasks["Compass-v0"]).predict("north")
        assert {step.action for step in played} | {action} <= set(compass().names)  # type: ignore[attr-defined]
    finally:
        del gym.registry["Compass-v0"]


def test_a_subclass_is_of_the_kind_of_its_base_but_cannot_be_described() -> None:
    class Level(Discrete):
        """A Discrete under another name."""

    assert leaf_kind(Level(3)) is LEAF_KINDS[Discrete]
    with pytest.raises(SpaceError, match="Level spaces are not supported"):
        space_to_json(Level(3))


@pytest.mark.parametrize("space", [Graph(Box(-1, 1, (2,)), None), Sequence(Discrete(2)), gym.spaces.OneOf([Text(3)])])
def test_an_unknown_space_is_named_with_the_kinds_of_the_table(space: Space[Any]) -> None:
    assert find_leaf_kind(space) is None
    kinds = r"a plain Box, Discrete, MultiBinary, MultiDiscrete or Text$"
    with pytest.raises(SpaceError, match=rf"^'a': {type(space).__name__} spaces are not supported: .* {kinds}"):
        SpaceTokenizer(Dict({"a": space}), MultiDiscrete([2]), Vocabulary(300))
