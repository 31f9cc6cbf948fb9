"""Wrappers of experts transform observations as sb3_contrib's do, per environment."""

import pickle
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3 import PPO

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.make import make_vector
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.obs_wrappers import Around, candidates, parse_wrappers
from gato_agent.rollouts.experts.sb3.preprocess import Preprocess
from tests.helpers.sb3_zips import MANIFEST, SHARED, needs_zips
from tests.helpers.scribblers import scribble
from tests.helpers.testing_env import TestingEnv

FLAT = Box(-np.inf, np.inf, (2,), np.float64)
GOALS = Dict(observation=FLAT, desired_goal=Box(-1, 1, (3,)))


@pytest.mark.parametrize("space", [FLAT, GOALS, Box(-5, 300, (2,), np.float32)])
def test_time_is_what_sb3_contrib_appends(space):
    def observe(self: TestingEnv) -> Any:
        obs = np.array([self.seed, self.t], space["observation"].dtype if space is GOALS else space.dtype)
        return {"observation": obs, "desired_goal": np.zeros(3, np.float32)} if space is GOALS else obs

    class Observed(TestingEnv):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return observe(self), {}

        def step(self, action):
            self.t += 1
            return observe(self), 0.0, False, False, {}

    env = gym.wrappers.TimeLimit(Observed(observation_space=space), 7)
    theirs = TimeFeatureWrapper(Observed(observation_space=deepcopy(space)), max_steps=7)
    ours = Around({"time_feature": {"horizon": 7}})
    assert ours.space(space) == theirs.observation_space
    for _ in range(2):
        (obs, _), (expected, _) = env.reset(seed=1), theirs.reset(seed=1)
        ours.reset(1)
        for t in range(8):
            batch = {key: value[None] for key, value in obs.items()} if isinstance(obs, dict) else obs[None]
            wrapped = ours.apply(batch, np.array([t == 0]))
            leaf, wanted = (x["observation"] if isinstance(x, dict) else x for x in (wrapped, expected))
            assert leaf.dtype == wanted.dtype
            np.testing.assert_array_equal(leaf[0], wanted)
            if t < 7:
                obs, expected = env.step(0)[0], theirs.step(0)[0]


def test_environments_count_their_own_steps():
    around = Around({"time_feature": {"horizon": 4}})
    around.reset(2)
    obs = np.zeros((2, 1))
    starts = [[True, True], [False, False], [True, False], [False, False]]
    times = [around.apply(obs, np.array(start))[:, 1].tolist() for start in starts]
    assert times == [[1, 1], [0.75, 0.75], [1, 0.5], [0.75, 0.25]]
    assert not obs.any()


def test_contact_forces_become_zeros():
    around = Around({"zero_padding": {"keep": 2, "zeros": 3}})
    around.reset(1)
    padded = around.apply(np.arange(4.0)[None], np.array([True]))
    assert padded.tolist() == [[0, 1, 0, 0, 0]]
    assert around.space(Box(-1, 1, (4,))).shape == (5,)


def test_frames_are_kept_whatever_a_policy_does_to_them():
    spaces = Spaces(Dict(a=Box(-9, 9, (2,)), b=Box(-9, 9, (1,))), Discrete(2))
    calm, spoilt = (Preprocess(spaces, {"frame_stack": {"n": 3}}, None, "x") for _ in range(2))
    for each in (calm, spoilt):
        each.reset(2)
    for t in range(5):
        obs = {"a": np.full((2, 2), t, np.float32), "b": np.full((2, 1), -t, np.float32)}
        start = np.array([t in (0, 3), t == 0])
        wanted, seen = calm.observe(obs, start), spoilt.observe(obs, start)
        np.testing.assert_equal(seen, wanted)
        assert seen["b"][1].tolist() == [-max(0, t - 2), -max(0, t - 1), -t]
        assert seen["b"][0].tolist() == [0, 0, -3] if t == 3 else True
        scribble(seen)


def test_wrappers_on_the_command_line():
    assert parse_wrappers(None) is None
    assert parse_wrappers('{"frame_stack": {"n": 4}}') == {"frame_stack": {"n": 4}}
    for wrong in ("", "[]", "3", '{"os.system": {}}', '{"frame_stack": {"n": 0}}', '{"frame_stack": {"n": 1e3}}',
                  '{"frame_stack": 4}', '{"frame_stack": {"n": true}}', "[" * 10_000):  # fmt: skip
        with pytest.raises(UsageError, match=r'--expert-wrappers .*write a JSON object of some of \{"frame_stack"'):
            parse_wrappers(wrong)


def test_what_is_not_known_is_refused():
    for wrappers in ({"os.system": {}}, {"time_feature": {"minutes": 3}}):
        with pytest.raises(GatoError, match="needs unknown wrappers"):
            Around(wrappers)
    with pytest.raises(GatoError, match="one-dimensional"):
        Around({"time_feature": {"horizon": 3}}).space(Discrete(3))


def test_a_zip_is_given_the_wrapper_that_fits_it(tmp_path):
    env = TimeFeatureWrapper(gym.make("Pendulum-v1"))
    PPO("MlpPolicy", env, device="cpu", n_steps=8, batch_size=8).save(tmp_path / "model.zip")
    spaces = gym.make("Pendulum-v1").observation_space, env.action_space
    assert candidates("Pendulum-v1", 200)[1] == {"time_feature": {"horizon": 200}}
    expert = load_expert(str(tmp_path / "model.zip"), "Pendulum-v1", *spaces)
    expert.reset(1)
    model = PPO.load(tmp_path / "model.zip", device="cpu")
    obs, _ = env.reset(seed=0)
    for t in range(5):
        action = expert.act(obs[None, :3], np.array([t == 0]))[0]
        np.testing.assert_array_equal(action, model.predict(obs, deterministic=True)[0])
        obs = env.step(action)[0]


@needs_zips
@pytest.mark.parametrize("row", [row for row in MANIFEST if row["wrappers"]], ids=lambda row: row["env"])
def test_a_wrapped_expert_acts_as_its_zip_behind_its_wrapper(row):
    """Thirty steps equal those of SB3's model with the wrapper of its training."""
    import sb3_contrib
    import stable_baselines3

    path = SHARED / row["path"]
    try:
        envs = make_vector(row["env"], 1)
    except UsageError as error:
        pytest.skip(str(error))
    algo = row["algo"].upper()
    model = (getattr(stable_baselines3, algo, None) or getattr(sb3_contrib, algo)).load(path, device="cpu")
    with (path.parent / "vecnormalize.pkl").open("rb") as file:
        statistics = pickle.load(file)
    env = gym.make(row["env"], **({"include_cfrc_ext_in_observation": False} if row["env"] == "Ant-v5" else {}))
    env = env if row["env"] == "Ant-v5" else TimeFeatureWrapper(env)

    def seen(obs: Any) -> Any:
        obs = np.append(obs, np.zeros(84)) if row["env"] == "Ant-v5" else obs
        return statistics.normalize_obs(obs)

    for spec in ("catalogue", str(path)):
        expert = load_expert(spec, row["env"], envs.single_observation_space, envs.single_action_space)
        expert.reset(1)
        batch, _ = envs.reset(seed=[3])
        obs, _ = env.reset(seed=3)
        for t in range(30):
            action = expert.act(batch, np.array([t == 0]))
            np.testing.assert_array_equal(action[0], model.predict(seen(obs), deterministic=True)[0])
            batch, obs = envs.step(action)[0], env.step(action[0])[0]
    envs.close()
