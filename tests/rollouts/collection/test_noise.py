"""Noise is a function of the episode's seed, and the expert's action is stored as the label."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from gato_agent.envs.errors import UsageError
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.rollouts.collection.noise import LEVELS, Noisy
from gato_agent.rollouts.experts.load import load_expert
from tests.helpers.constant_expert import NEXT, START, ConstantExpert

SPACE = Box(-1, 1, (2,))
ACTION = np.array([[7.0, 7.0]], np.float32)  # out of the space, so never drawn at random


def episode(noisy: Noisy, seed: int, steps: int = 200) -> np.ndarray:
    noisy.seed(seed)
    noisy.reset(1)
    return np.array([noisy.act(None, NEXT if t else START)[0] for t in range(steps)])


def test_an_episode_repeats_whatever_came_before_it():
    noisy = Noisy(ConstantExpert(ACTION), SPACE)
    first = [episode(noisy, seed) for seed in range(8)]
    again = [episode(Noisy(ConstantExpert(ACTION), SPACE), seed) for seed in reversed(range(8))][::-1]
    np.testing.assert_array_equal(first, again)
    assert len({actions.tobytes() for actions in first}) > 3  # about a quarter are without noise


def test_the_label_is_the_experts_own_action():
    noisy = Noisy(ConstantExpert(ACTION), SPACE)
    for seed in range(8):
        episode(noisy, seed)
        np.testing.assert_array_equal(noisy.label, ACTION)


def test_levels_shares_and_holds_are_those_that_were_measured_with():
    noisy = Noisy(ConstantExpert(ACTION), SPACE)
    shares: dict[float, list[float]] = {level: [] for level in LEVELS}
    holds: list[int] = []
    for seed in range(400):
        actions = episode(noisy, seed)
        executed = (actions != ACTION).any(1)
        shares[noisy.level].append(executed.mean())
        changes = np.flatnonzero((actions[1:] != actions[:-1]).any(1)) + 1
        holds += [len(run) for run in np.split(actions, changes)[:-1] if (run[0] != ACTION).any()]
    counts = [len(values) for values in shares.values()]
    assert min(counts) > 70  # of 100 each
    assert shares[0.0] == [0.0] * counts[0]
    for level in LEVELS[1:]:
        rate = level / 3  # a third of the level starts a hold, of three steps on average
        assert np.mean(shares[level]) == pytest.approx(3 * rate / (1 + 3 * rate - rate), abs=0.02)
    assert set(holds) == {1, 2, 3, 4, 5}
    assert np.mean(holds) == pytest.approx(3, abs=0.1)


def test_any_space_and_one_environment():
    space = Dict(a=Discrete(3, start=2), b=Box(-np.inf, np.inf, (2,)))
    noisy = Noisy(ConstantExpert({"a": np.array([4]), "b": np.zeros((1, 2), np.float32)}), space)
    for seed in range(20):
        noisy.seed(seed)
        noisy.reset(1)
        for _ in range(50):
            action = noisy.act(None, NEXT)
            assert 2 <= action["a"][0] <= 4
    with pytest.raises(ValueError, match="1 environment is needed, not 2"):
        noisy.reset(2)


def test_the_expert_gets_the_seed_too():
    expert = ConstantExpert(ACTION)
    Noisy(expert, SPACE).seed(11)
    assert expert.seeds == [11]


@pytest.mark.parametrize(
    "env_id",
    ["PandaReach-v3", "FetchReach-v4", "AntBulletEnv-v0", "Meta-World/reach-v3", "Taxi-v4", "BabyAI-PutNextLocal-v0",
     "InvertedPendulum-v5", pytest.param("ALE/Pong-v5", marks=pytest.mark.slow)],
)  # fmt: skip
def test_any_expert_shows_how_it_comes_back(env_id):
    """Labels of many kinds of experts are in the action space and a function of the seed."""
    try:
        envs = make_vector(env_id, 1)
    except UsageError as error:
        pytest.skip(str(error))
    space = envs.single_action_space
    expert = load_expert("catalogue", env_id, envs.single_observation_space, space, envs=envs)

    def play(seed: int) -> list[tuple[bytes, bytes]]:
        noisy.seed(seed)
        pairs: list[tuple[bytes, bytes]] = []
        for step, _ in zip(steps(noisy, envs, [seed]), range(20), strict=False):
            assert noisy.label[0] in space
            pairs.append((np.asarray(step.action).tobytes(), np.asarray(noisy.label[0]).tobytes()))
        return pairs

    noisy = Noisy(expert, space)
    seeds = [seed for seed in range(99) if (noisy.seed(seed), noisy.level)[1] == max(LEVELS)][:16]
    played = [play(seed) for seed in seeds]
    assert [play(seed) for seed in seeds[::-1]] == played[::-1]
    pairs = [pair for episode in played for pair in episode]
    assert 0 < sum(action != label for action, label in pairs) < len(pairs)
    envs.close()
