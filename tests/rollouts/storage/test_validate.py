"""Valid episodes are stored, verified and trained on; invalid values are named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Space, Text, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from gato_agent.dataset.load import load_data
from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.flatten import space_to_json, stack
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.validate import EpisodeValidator, validated_rewards
from gato_agent.rollouts.storage.verify import verify
from tests.helpers.episodes import HEADER
from tests.helpers.random_spaces import random_space, random_value

OBSERVED, ACTED = Dict(pos=Box(-1, 1, (2,)), n=Discrete(4)), Box(-1, 1, (1,))
LENGTH = 3


def made(seed: int = 0, observed: Space[Any] = OBSERVED, acted: Space[Any] = ACTED, **other: Any) -> Episode:
    rng = np.random.default_rng(seed)
    values = {
        "observations": stack(observed, [random_value(rng, observed) for _ in range(LENGTH + 1)]),
        "actions": stack(acted, [random_value(rng, acted) for _ in range(LENGTH)]),
        "labels": stack(acted, [random_value(rng, acted) for _ in range(LENGTH)]) if seed % 2 else None,
    }
    ends = {"rewards": np.arange(LENGTH) / 3, "terminated": True, "truncated": False, "success": None, "seed": seed}
    return Episode(**values | ends | other)


POS, N = np.zeros((LENGTH + 1, 2)), np.zeros(LENGTH + 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"observations": {"pos": POS[1:], "n": N}}, r"^observations 'pos': 3 rows, but 3 steps have 4$"),
        ({"observations": {"pos": POS + np.nan, "n": N}}, r"^observations, step 0: 'pos': element \[0\] is nan, not a"),
        ({"observations": {"pos": POS, "n": 4 * np.eye(4)[3]}}, r"^observations, step 3: 'n': value is 4.*, beyond"),
        ({"observations": {"pos": POS, "n": N + 0.5}}, r"^observations, step 0: 'n': value is 0.5, which is no int64$"),
        ({"observations": {"pos": POS}}, r"^observations: 'n': missing$"),
        ({"actions": {"": POS[1:]}}, r"^actions: shape \(2,\) of float64 instead of \(1,\) of float32$"),
        (
            {"actions": {"": np.array([[0], [1], [1.1]])}},
            r"^actions, step 2: element \[0\] is 1.1\d*, beyond its bounds",
        ),
        (
            {"labels": {"": np.array([[0], [np.inf], [0]])}},
            r"^labels, step 1: element \[0\] is inf, not a finite number$",
        ),
        ({"actions": {"": np.zeros((2, 1))}}, r"^actions: 2 rows, but 3 steps have 3$"),
        ({"rewards": np.array([0, np.nan, 0])}, r"^rewards, step 1: nan, with which the return is not finite"),
        ({"rewards": np.array([6e99, 6e99, 0])}, r"^rewards, step 1: 6e\+99, with which the return is not finite or"),
        ({"rewards": np.array([1e308, 1e308, -1e308])}, r"^rewards, step 0: 1e\+308, with which"),
        ({"rewards": np.zeros((3, 1))}, r"^rewards: shape \(3, 1\) of float64 instead of one number for each of at"),
        ({"rewards": np.zeros(0)}, r"^rewards: shape \(0,\) of float64 instead of one number"),
        ({"rewards": np.array(["1"] * 3)}, r"^rewards: shape \(3,\) of <U1 instead of one number"),
    ],
)
def test_what_cannot_be_held_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(GatoError, match=message):
        EpisodeValidator(OBSERVED, ACTED).validate(made(**wrong))


def test_what_can_be_held_is_cast() -> None:
    given = made(
        observations={"pos": 5 * (POS + 1), "n": N + 3.0, "other": N}, actions={"": np.ones((3, 1))}, rewards=[1, 2, 3]
    )
    valid = EpisodeValidator(OBSERVED, ACTED).validate(given)
    assert {path: column.dtype.name for path, column in valid.observations.items()} == {"pos": "float32", "n": "int64"}
    assert valid.observations["pos"].max() == 5  # beyond its bounds, which tokens clip
    assert (valid.actions[""].dtype, valid.rewards.dtype, valid.total) == (np.float32, np.float64, 6.0)


def test_actions_are_clipped_where_that_is_asked_for() -> None:
    episode = made(actions={"": np.array([[-2.0], [0.5], [1.1]])})
    valid = EpisodeValidator(OBSERVED, ACTED, clip_actions=True).validate(episode)
    assert valid.actions[""].tolist() == [[-1.0], [0.5], [1.0]]


def test_rewards_of_any_real_dtype_are_numbers() -> None:
    for dtype in (bool, np.int8, np.uint64, np.float16, np.longdouble):
        assert validated_rewards(np.ones(3, dtype)).tolist() == [1.0, 1.0, 1.0]


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_what_is_held_is_stored_verified_and_learned(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    root = tmp_path_factory.mktemp("valid")
    rng = np.random.default_rng(seed)
    nothing = {"d": Dict(), "t": Tuple(()), "g": Box(0, 255, (0, 3, 4), np.uint8), "f": Box(-1, 1, (2, 0))}
    observed, acted = (Dict({"x": random_space(rng, 2)} | nothing) for _ in range(2))
    episodes = [EpisodeValidator(observed, acted).validate(made(seed + i, observed, acted)) for i in range(2)]
    spaces = {"observation_space": space_to_json(observed), "action_space": space_to_json(acted)}
    with EpisodeStore.create(root, HEADER | spaces | {"env_id": "Any-v0", "env_kwargs": {}}) as store:
        store.commit([replace(episode, seed=i).encode() for i, episode in enumerate(episodes)])
    assert verify(root) == (2, [])
    tokens = load_data([root], GatoConfig.named("nano"), None).tokens
    assert tokens >= 2 * LENGTH


def test_long_texts_have_room(tmp_path: Path) -> None:
    observed = Dict({"a/b": Text(400), "n": Discrete(2)})
    said = ["".join(np.random.default_rng(i).choice(list("abcdefghij"), 300)) for i in range(4)]
    values = {"a~1b": np.array(said, object), "n": np.zeros(4)}
    episode = EpisodeValidator(observed, ACTED).validate(made(observations=values))
    spaces = {"observation_space": space_to_json(observed), "action_space": space_to_json(ACTED)}
    with EpisodeStore.create(tmp_path, HEADER | spaces | {"env_id": "Any-v0", "env_kwargs": {}}) as store:
        store.commit([episode.encode()])
    data = load_data([tmp_path], GatoConfig.named("nano"), None)
    assert data.text is not None
    assert data.tasks["Any-v0"].text_pieces == max(32, 3 * max(len(data.text.encode(text)) for text in said) // 2)
    with pytest.raises(GatoError, match="train with --text-pieces"):
        load_data([tmp_path], GatoConfig.named("nano"), 3)
