"""Experts act as their files say, and no file runs code."""

import base64
import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector.utils import batch_space, create_empty_array, iterate
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.rollouts.experts import load as experts
from gato_agent.rollouts.experts.load import load_expert, shipped
from gato_agent.rollouts.experts.sb3.policy import Policy
from gato_agent.rollouts.experts.sb3.vecnormalize import Normalizer, read_npz, read_pickle, write_npz
from gato_agent.rollouts.experts.sb3.zip_model import main, read_zip
from tests.helpers.paths import ROOT
from tests.helpers.sb3_zips import SHARED, RunsCommand, each_zip, needs_zips

STARTS = np.ones(1000, np.bool_)


@pytest.fixture
def canary(tmp_path: Path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code of a file was run"


def spaces_of(env_id: str) -> tuple[gym.Space, gym.Space]:
    env = gym.make(env_id)
    return env.observation_space, env.action_space


def observations(space: gym.Space, n: int = 1000):
    batch = batch_space(space, n)
    batch.seed(0)
    return batch.sample()


def saved(model, folder: Path) -> Path:
    model.save(folder / "model.zip")
    return folder / "model.zip"


def rewritten(path: Path, **entries: bytes) -> Path:
    """Copy of a zip with some entries replaced."""
    target = path.with_name(f"changed_{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as out:
        for name in source.namelist():
            out.writestr(name, entries.get(name.replace(".", "_"), source.read(name)))
    return target


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory) -> Path:
    return saved(A2C("MlpPolicy", "CartPole-v1", device="cpu"), tmp_path_factory.mktemp("a2c"))


# What a file says


@needs_zips
@each_zip
def test_a_zip_acts_exactly_as_in_sb3(row):
    import sb3_contrib

    algo = {"sac (her)": "SAC"}.get(row["algo"], row["algo"].upper())
    path = SHARED / row["path"]
    model = getattr(sys.modules["stable_baselines3"], algo, None) or getattr(sb3_contrib, algo)
    model = model.load(path, device="cpu")  # trusted: its spaces come from its pickles
    expert = load_expert(str(path), row["env"], model.observation_space, model.action_space)
    obs = observations(model.observation_space)
    expert.reset(1000)
    actions = expert.act(obs, STARTS)
    if row["obs_norm"]:
        with (path.parent / "vecnormalize.pkl").open("rb") as file:
            obs = pickle.load(file).normalize_obs(obs)
    np.testing.assert_array_equal(actions, model.predict(obs, deterministic=True)[0])
    assert batch_space(model.action_space, 1000).contains(actions)
    assert expert.provenance["source"] == "model.zip"  # a name, no path


@needs_zips
@each_zip
def test_a_shipped_policy_is_its_zip(row):
    env_id = row["env"]
    try:
        envs = make_vector(env_id, 1)
    except UsageError as error:
        pytest.skip(str(error))
    obs_space, action_space = envs.single_observation_space, envs.single_action_space
    zipped = load_expert(str(SHARED / row["path"]), env_id, obs_space, action_space)
    ours = load_expert("catalogue", env_id, obs_space, action_space)
    obs = observations(obs_space)
    zipped.reset(1000)
    ours.reset(1000)
    np.testing.assert_array_equal(ours.act(obs, STARTS), zipped.act(obs, STARTS))
    assert ours.provenance["sha256"] == zipped.provenance["sha256"]


@needs_zips
@each_zip
def test_a_zip_scores_what_was_measured(row):
    try:
        envs = make_vector(row["env"], 3)
    except UsageError as error:
        pytest.skip(str(error))
    expert = load_expert(str(SHARED / row["path"]), row["env"], envs.single_observation_space, envs.single_action_space)
    total = sum(step.reward for step in steps(expert, envs, range(3)))
    # Three episodes against ten: a normal variable is within four of these standard errors.
    tolerance = 4 * float(row["std"]) * (1 / 3 + 1 / 10) ** 0.5 + 1
    assert total / 3 == pytest.approx(float(row["mean"]), abs=tolerance)


def test_the_shipped_policies_are_small_and_have_their_licence():
    folder = ROOT / "rollouts" / "experts" / "weights"
    assert {"CartPole-v1", "Ant-v5", "AntBulletEnv-v0", "PandaReach-v3", "FetchReach-v4"} <= set(shipped())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    assert "MIT License" in (folder / "LICENSE").read_text()
    for path in folder.glob("*.safetensors"):
        assert {"algo", "source", "licence"} <= Policy.from_file(path).notes.keys()


@pytest.mark.parametrize(
    ("algo", "env_id", "kwargs"),
    [
        (PPO, "Pendulum-v1", {"policy_kwargs": {"activation_fn": torch.nn.ReLU, "net_arch": {"pi": [8], "vf": [4]}}}),
        (PPO, "Pendulum-v1", {"use_sde": True, "policy_kwargs": {"log_std_init": -2.0, "ortho_init": False}}),
        (SAC, "Pendulum-v1", {"policy_kwargs": {"net_arch": [8], "n_critics": 1}}),
        (TD3, "Pendulum-v1", {"policy_kwargs": {"net_arch": [8]}}),
        (DQN, "CartPole-v1", {"policy_kwargs": {"net_arch": [8]}}),
    ],
)
def test_other_algorithms_and_arguments(tmp_path, algo, env_id, kwargs):
    model = algo("MlpPolicy", env_id, device="cpu", **kwargs)
    expert = load_expert(str(saved(model, tmp_path)), env_id, model.observation_space, model.action_space)
    obs = observations(model.observation_space)
    np.testing.assert_array_equal(expert.act(obs, STARTS), model.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
def test_images_and_dicts(tmp_path, policy):
    from tests.helpers.testing_env import TestingEnv

    image = Box(0, 255, (40, 40, 3), np.uint8)
    space = image if policy == "CnnPolicy" else Dict(image=image, state=Box(-1, 1, (2,)))
    env = TestingEnv(observation_space=space, reset=lambda self, seed, options: (space.sample(), {}))
    model = A2C(policy, env, device="cpu")
    expert = load_expert(str(saved(model, tmp_path)), "Testing-v0", space, env.action_space)
    obs = observations(space, 8)
    np.testing.assert_array_equal(expert.act(obs, STARTS[:8]), model.predict(obs, deterministic=True)[0])


def test_the_policy_may_be_named_by_its_folder(cartpole, tmp_path):
    spaces = spaces_of("CartPole-v1")
    assert load_expert(str(cartpole.parent), "CartPole-v1", *spaces).provenance["source"] == "model.zip"
    with pytest.raises(UsageError, match="holds 0 zips"):
        load_expert(str(tmp_path), "CartPole-v1", *spaces)


def test_the_tool_keeps_what_acting_needs(cartpole, tmp_path):
    out = tmp_path / "small.safetensors"
    main([str(cartpole), str(out), "algo=a2c", "licence=MIT"])
    small, whole = Policy.from_file(out), read_zip(cartpole)
    assert small.notes == {"algo": "a2c", "licence": "MIT"}
    assert small.sha256 == whole.sha256
    assert not [name for name in small.weights if "value" in name or "critic" in name]
    assert main.__doc__ and out.stat().st_size < cartpole.stat().st_size / 2
    assert load_expert(str(out), "CartPole-v1", *spaces_of("CartPole-v1")).provenance["source"] == "small.safetensors"
    with pytest.raises(UsageError, match="usage"):
        main([str(cartpole)])


def test_weights_may_be_kept_in_half_the_bits(cartpole, tmp_path):
    whole, half, spaces = tmp_path / "whole.safetensors", tmp_path / "half.safetensors", spaces_of("CartPole-v1")
    main([str(cartpole), str(whole)])
    main([str(cartpole), str(half), "half=yes"])
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    obs = observations(spaces[0])
    actions = [load_expert(str(path), "CartPole-v1", *spaces).act(obs, STARTS) for path in (whole, half)]
    assert np.mean(actions[0] == actions[1]) > 0.99


# What a file may not do


def test_evil_pickles_in_a_sound_zip_are_never_read(cartpole, tmp_path, canary):
    evil = base64.b64encode(pickle.dumps(RunsCommand(canary))).decode()
    with zipfile.ZipFile(cartpole) as file:
        data = json.loads(file.read("data"))
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = evil
    data["policy_kwargs"][":serialized:"] = evil
    path = rewritten(cartpole, data=json.dumps(data).encode())
    obs_space, action_space = spaces_of("CartPole-v1")
    expert = load_expert(str(path), "CartPole-v1", obs_space, action_space)
    sound = load_expert(str(cartpole), "CartPole-v1", obs_space, action_space)
    obs = observations(obs_space)
    np.testing.assert_array_equal(expert.act(obs, STARTS), sound.act(obs, STARTS))


def test_evil_weights_are_refused(cartpole, canary):
    buffer = io.BytesIO()
    torch.save({"action_net.weight": RunsCommand(canary)}, buffer)
    for weights in (buffer.getvalue(), pickle.dumps(RunsCommand(canary))):
        path = rewritten(cartpole, policy_pth=weights)
        with pytest.raises(GatoError, match=r"changed_model\.zip.*policy\.pth is damaged, or more than weights"):
            load_expert(str(path), "CartPole-v1", *spaces_of("CartPole-v1"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_evil_vecnormalize_is_refused_by_name(cartpole, tmp_path, canary, protocol):
    shutil.copy(cartpole, tmp_path / "model.zip")
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps({"obs_rms": RunsCommand(canary)}, protocol))
    with pytest.raises(GatoError, match=r"vecnormalize\.pkl.*posix\.system, which observation statistics do not need"):
        load_expert(str(tmp_path), "CartPole-v1", *spaces_of("CartPole-v1"))


@pytest.mark.parametrize(
    ("module", "name"),
    [("builtins", "eval"), ("os", "system"), ("numpy.testing", "rundocs"), ("numpy", "load"), ("subprocess", "Popen"),
     ("torch", "load"), ("gymnasium.spaces.utils", "np.load"), ("stable_baselines3.common.vec_env", "os.system")],
)  # fmt: skip
def test_a_vecnormalize_cannot_call_anything(tmp_path, module, name):
    path = tmp_path / "vecnormalize.pkl"
    stream = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name, "argument"))
    path.write_bytes(stream[: -len("argument") - 2] + b"\x93" + stream[-len("argument") - 2 :] + b"\x85R.")
    with pytest.raises(GatoError, match=r"vecnormalize\.pkl cannot be used"):
        read_pickle(path)


def test_a_policy_class_or_argument_that_is_not_known_is_refused_with_the_way_out(cartpole):
    with zipfile.ZipFile(cartpole) as file:
        data = json.loads(file.read("data"))
    changes = {
        "posix.system": {"policy_class": {"__module__": "posix", "__init__": "<function system.__init__ at 0x1>"}},
        "features_extractor_class=": {"policy_kwargs": {"features_extractor_class": "<class 'mine.Extractor'>"}},
        "activation_fn=": {"policy_kwargs": {"activation_fn": "<function evil at 0x7f>"}},
        "does not say what policy": {"policy_class": "ActorCriticPolicy"},
    }
    for message, change in changes.items():
        path = rewritten(cartpole, data=json.dumps(data | change).encode())
        with pytest.raises(GatoError, match=message) as caught:
            load_expert(str(path), "CartPole-v1", *spaces_of("CartPole-v1"))
        assert path.name in str(caught.value)
        assert "--expert" in str(caught.value)


def test_a_small_policy_file_cannot_name_other_classes(cartpole, tmp_path):
    policy = read_zip(cartpole)
    for change, message in (
        ({"policy": "subprocess.Popen"}, "subprocess.Popen is not a class that experts may use"),
        ({"kwargs": {"activation_fn": "os.system"}}, "os.system is not a class that experts may use"),
        ({"kwargs": {"optimizer_class": "torch.optim.Adam"}}, "unsupported arguments: optimizer_class"),
    ):
        path = tmp_path / "policy.safetensors"
        path.write_bytes(replace(policy, **change).to_bytes())
        with pytest.raises(GatoError, match=message):
            load_expert(str(path), "CartPole-v1", *spaces_of("CartPole-v1"))


# What may be wrong with it


@pytest.mark.parametrize("keep", [0, 10, 1000, -100])
def test_a_truncated_zip_is_named(cartpole, tmp_path, keep):
    path = tmp_path / "short.zip"
    path.write_bytes(cartpole.read_bytes()[:keep])
    with pytest.raises(GatoError, match=r"short\.zip is no SB3 model, or truncated or damaged"):
        load_expert(str(path), "CartPole-v1", *spaces_of("CartPole-v1"))


def test_damage_inside_a_zip_is_named(cartpole, tmp_path):
    rng, spaces = np.random.default_rng(0), spaces_of("CartPole-v1")
    path, sound = tmp_path / "damaged.zip", cartpole.read_bytes()
    for _ in range(50):
        damaged = bytearray(sound)
        for position in rng.integers(len(sound), size=20):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_expert(str(path), "CartPole-v1", *spaces)
        except GatoError as error:
            assert "damaged.zip" in str(error)  # noqa: PT017


def test_another_environments_expert_is_refused(cartpole):
    with pytest.raises(GatoError, match=r"model\.zip does not fit: .* \(2,\) in the file and \(3,\) for this"):
        load_expert(str(cartpole), "Acrobot-v1", *spaces_of("Acrobot-v1"))
    with pytest.raises(GatoError, match="wrapper"):
        load_expert(str(cartpole), "x", Box(-1, 1, (5,)), Discrete(2))


def test_an_expert_that_is_not_there_says_what_there_is():
    spaces = spaces_of("CartPole-v1")
    no_expert = r"no expert for FrozenLake-v1 is shipped.*--expert train.*MODULE:FUNCTION.*info tasks"
    with pytest.raises(UsageError, match=no_expert):
        load_expert("catalogue", "FrozenLake-v1", *spaces)
    with pytest.raises(UsageError, match=r"no expert 'nothing.zip'.*module:callable"):
        load_expert("nothing.zip", "CartPole-v1", *spaces)
    with pytest.raises(UsageError, match="no module named not_there"):
        load_expert("not_there:expert", "CartPole-v1", *spaces)
    with pytest.raises(UsageError, match="--expert json:expert: module json has no attribute 'expert'"):
        load_expert("json:expert", "CartPole-v1", *spaces)
    with pytest.raises(UsageError, match="the bool has none of the accepted forms; accepted are"):
        load_expert("builtins:isinstance", "CartPole-v1", spaces[0], Box)  # type: ignore[arg-type]
    with pytest.raises(GatoError, match="builtins:max raised TypeError"):
        load_expert("builtins:max", "CartPole-v1", *spaces)


# Statistics


def normalized(tmp_path: Path) -> VecNormalize:
    envs = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=5.0, epsilon=1e-4)
    envs.seed(0)
    envs.reset()
    for _ in range(50):
        envs.step(np.array([envs.action_space.sample()]))
    return envs


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_statistics_are_sb3s(tmp_path, protocol):
    envs = normalized(tmp_path)
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(envs, protocol))
    if protocol == 2:  # Python 2's: bytes go through a codec
        with pytest.raises(GatoError, match="_codecs"):
            read_pickle(path)
        return
    normalizer = read_pickle(path)
    assert normalizer is not None
    obs = observations(envs.observation_space) * 3
    np.testing.assert_array_equal(normalizer(obs), envs.normalize_obs(obs))
    (tmp_path / "obs_norm.npz").write_bytes(write_npz(normalizer))
    assert read_npz(tmp_path / "obs_norm.npz").to_json() == normalizer.to_json()
    assert Normalizer.from_json(json.loads(json.dumps(normalizer.to_json()))).to_json() == normalizer.to_json()


def test_statistics_of_another_expert_are_refused(cartpole, tmp_path):
    shutil.copy(cartpole, tmp_path / "model.zip")
    for key, shape in (("", 3), ("goal", 4)):
        stats = Normalizer({key: np.zeros(shape)}, {key: np.ones(shape)}, 10.0, 1e-8)
        (tmp_path / "obs_norm.npz").write_bytes(write_npz(stats))
        with pytest.raises(GatoError, match=r"model\.zip does not fit: the observation statistics"):
            load_expert(str(tmp_path), "CartPole-v1", *spaces_of("CartPole-v1"))


def test_rewards_alone_need_no_statistics(tmp_path):
    envs = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_obs=False)
    envs.save(str(tmp_path / "vecnormalize.pkl"))
    assert read_pickle(tmp_path / "vecnormalize.pkl") is None


def test_statistics_are_found_where_the_zoo_puts_them(cartpole, tmp_path):
    shutil.copy(cartpole, tmp_path / "CartPole-v1.zip")
    (tmp_path / "CartPole-v1").mkdir()
    stats = Normalizer({"": np.zeros(4)}, {"": np.ones(4)}, 10.0, 1e-8)
    (tmp_path / "CartPole-v1" / "obs_norm.npz").write_bytes(write_npz(stats))
    found = read_zip(tmp_path / "CartPole-v1.zip").normalize
    assert found is not None
    assert found.to_json() == stats.to_json()


@pytest.mark.parametrize("name", ["obs_norm.npz", "vecnormalize.pkl"])
@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({}), pickle.dumps(RunningMeanStd(shape=(2,)))])
def test_damaged_statistics_are_named(cartpole, tmp_path, name, content):
    shutil.copy(cartpole, tmp_path / "model.zip")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GatoError, match=f"{name} cannot be used as observation statistics"):
        read_zip(tmp_path / "model.zip")


# Others


def test_random_actions_are_a_function_of_the_seed():
    space = Dict(a=Discrete(3, start=1), b=Box(-1, 1, (2,)))
    actor = load_expert("random", "x", Discrete(1), space, seed=5)

    def first() -> str:
        actor.reset(2)
        return repr(actor.act(None, STARTS[:2]))

    five = first()
    assert five == first()
    actor.seed(6)
    assert five != first()
    assert batch_space(space, 2).contains(actor.act(None, STARTS[:2]))


MODULE = """
import numpy as np

class Predicts:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        state = 0 if state is None or episode_start[0] else state + 1
        return np.full(len(observation), state % 2), state

class Acts:
    def act(self, observation, start):
        raise ValueError("no idea")

def predicts(observation_space, action_space): return Predicts()
def acts(observation_space, action_space): return Acts()
"""


def test_a_users_own_expert(tmp_path, monkeypatch):
    (tmp_path / "my_experts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    expert = load_expert("my_experts:predicts", "CartPole-v1", *spaces_of("CartPole-v1"))
    expert.reset(1)
    taken = [step.action for step in steps(expert, make_vector("CartPole-v1", 1), [0])]
    assert taken[:4] == [0, 1, 0, 1]  # its state is kept between steps
    assert expert.provenance["kind"] == "callable"
    assert expert.provenance["source"] == "my_experts:predicts"
    (tmp_path / "broken_experts.py").write_text("raise ValueError('not\\nready')")
    with pytest.raises(GatoError, match=r"^--expert broken_experts:x: importing broken_experts raised .*: not ready$"):
        load_expert("broken_experts:x", "CartPole-v1", *spaces_of("CartPole-v1"))
    failing = load_expert("my_experts:acts", "CartPole-v1", *spaces_of("CartPole-v1"))
    with pytest.raises(GatoError, match="my_experts:acts raised ValueError: no idea"):
        failing.act(None, STARTS)


def test_loading_the_module_is_quick():
    program = (
        "import sys, gato_agent.rollouts.experts.load; assert not {'torch', 'stable_baselines3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


# What a file asks for


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("net_arch", [10**9]), ("net_arch", [8] * 1000), ("net_arch", {"pi": [64, 64], "vf": [10**9]}),
        ("net_arch", [4096] * 60), ("net_arch", [-1]), ("net_arch", ["64"]), ("net_arch", [64.5]),
        ("net_arch", {"pi": {"deep": [10**8]}}), ("n_critics", 10**6), ("n_quantiles", 10**12),
        ("lstm_hidden_size", 10**9), ("features_extractor_kwargs", {"features_dim": 10**10}),
        ("lstm_kwargs", {"proj_size": 10**9}), ("n_lstm_layers", 10**5),
    ],
)  # fmt: skip
def test_a_network_that_the_file_does_not_hold_is_refused_before_it_is_made(cartpole, tmp_path, key, value):
    with zipfile.ZipFile(cartpole) as file:
        data = json.loads(file.read("data"))
    data["policy_kwargs"][key] = value
    path = rewritten(cartpole, data=json.dumps(data).encode())
    with pytest.raises(GatoError, match=rf"{path.name}: {key} .*(larger network|more than a policy|no whole number)"):
        read_zip(path)
    small = tmp_path / "policy.safetensors"
    small.write_bytes(replace(read_zip(cartpole), kwargs={key: value}).to_bytes())
    with pytest.raises(GatoError, match=rf"policy\.safetensors.*{key} "):
        Policy.from_file(small)


def test_a_zip_of_much_in_little_is_refused_before_it_is_unpacked(cartpole, tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data", b"{" + b" " * 2**28)
        file.writestr("policy.pth", b"")
    assert bomb.stat().st_size < 2**20
    with pytest.raises(GatoError, match=r"bomb\.zip is no SB3 model.*that declares"):
        read_zip(bomb)
    inner, strided = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(2**28))
    torch.save({"action_net.weight": torch.zeros(1).expand(2**31)}, strided)
    said = {"that declares": inner, "weights of 8,589,934,592 bytes": strided}
    for message, weights in said.items():
        with pytest.raises(GatoError, match=rf"changed_model\.zip: policy\.pth is damaged, .*{message}"):
            read_zip(rewritten(cartpole, policy_pth=weights.getvalue()))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_and_statistics_that_are_not_finite_are_refused(cartpole, tmp_path, value):
    policy, path = read_zip(cartpole), tmp_path / "policy.safetensors"
    weights = {name: array.copy() for name, array in policy.weights.items()}
    weights["action_net.weight"][0, 0] = value
    path.write_bytes(replace(policy, weights=weights).to_bytes())
    with pytest.raises(GatoError, match=r"policy\.safetensors .*action_net\.weight is not finite"):
        Policy.from_file(path)
    state = io.BytesIO()
    torch.save({name: torch.tensor(array) for name, array in weights.items()}, state)
    with pytest.raises(GatoError, match=r"policy\.pth is damaged, .*action_net\.weight is not finite"):
        read_zip(rewritten(cartpole, policy_pth=state.getvalue()))
    for mean, var in ((value, 1.0), (0.0, value), (0.0, -1.0)):
        broken = Normalizer({"": np.full(4, mean)}, {"": np.full(4, var)}, 10.0, 1e-8)
        (tmp_path / "obs_norm.npz").write_bytes(write_npz(broken))
        with pytest.raises(GatoError, match=r"obs_norm\.npz cannot be used .*(not finite|is invalid)"):
            read_npz(tmp_path / "obs_norm.npz")


def test_shipped_experts_are_those_that_were_shipped(tmp_path, monkeypatch):
    """A changed bit would silently change actions."""
    for path in sorted(experts.SHIPPED.glob("*.safetensors")):
        experts.check_shipped(path)
    assert len((experts.SHIPPED / experts.SUMS).read_text().splitlines()) == len(shipped())
    for name in ("CartPole-v1.safetensors", experts.SUMS):
        shutil.copy(experts.SHIPPED / name, tmp_path)
    monkeypatch.setattr(experts, "SHIPPED", tmp_path)
    load_expert("catalogue", "CartPole-v1", *spaces_of("CartPole-v1"))
    data = bytearray((tmp_path / "CartPole-v1.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "CartPole-v1.safetensors").write_bytes(data)
    with pytest.raises(GatoError, match=r"CartPole-v1\.safetensors is damaged .*install gato-agent again"):
        load_expert("catalogue", "CartPole-v1", *spaces_of("CartPole-v1"))


@pytest.fixture(scope="module")
def shipped_spaces():
    """Spaces of the catalogue's environments, whose packages need not be installed."""
    return {task.id: (task.observation_space, task.action_space) for task in Checkpoint.load("shipped").tasks.values()}


@pytest.mark.parametrize("env_id", shipped())
def test_every_shipped_expert_acts(shipped_spaces, env_id):
    """Class names in the files outlive moves of the modules."""
    observation_space, action_space = shipped_spaces[env_id]
    expert = load_expert("catalogue", env_id, observation_space, action_space)
    expert.reset(2)
    observations = create_empty_array(observation_space, 2)
    for action in iterate(batch_space(action_space, 2), expert.act(observations, np.ones(2, np.bool_))):
        assert action in action_space


def test_a_converted_expert_has_a_digest_and_those_without_one_are_read(cartpole, tmp_path):
    policy, path = read_zip(cartpole), tmp_path / "policy.safetensors"
    data = policy.to_bytes()
    assert data == policy.to_bytes()
    path.write_bytes(data)
    assert Policy.from_file(path).sha256 == policy.sha256
    changed = bytearray(data)
    changed[-3] ^= 1
    path.write_bytes(changed)
    with pytest.raises(GatoError, match=r"policy\.safetensors .*it does not match its digest"):
        Policy.from_file(path)
    path.write_bytes(policy._serialised({}))  # as earlier versions wrote it
    assert Policy.from_file(path).to_bytes() == data


def test_a_pickle_that_asks_for_places_in_memory_is_refused(tmp_path):
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(b"\x80\x04]r\xff\xff\xff\xff.")  # LONG_BINPUT: makes a table of four billion places
    with pytest.raises(GatoError, match=r"vecnormalize\.pkl cannot be used .*4,294,967,295 places in memory"):
        read_pickle(path)
    path.write_bytes(b"\x80\x04" + b"N0" * 2**20 + b"N.")
    with pytest.raises(GatoError, match=r"vecnormalize\.pkl cannot be used .*more than 1,048,576 steps"):
        read_pickle(path)


def test_statistics_of_earlier_versions_have_no_digest_and_are_read(tmp_path):
    stats = Normalizer({"a": np.arange(3.0)}, {"a": np.ones(3)}, 10.0, 1e-8)
    np.savez(tmp_path / "obs_norm.npz", a_mean=stats.mean["a"], a_var=stats.var["a"], clip=10.0, eps=1e-8)
    assert read_npz(tmp_path / "obs_norm.npz").to_json() == stats.to_json()
    data = write_npz(stats)
    assert data == write_npz(stats)
    (tmp_path / "obs_norm.npz").write_bytes(data)
    assert read_npz(tmp_path / "obs_norm.npz").to_json() == stats.to_json()
    changed = dict(np.load(io.BytesIO(data))) | {"clip": np.float64(9.0)}
    np.savez(tmp_path / "obs_norm.npz", **changed)
    with pytest.raises(GatoError, match=r"obs_norm\.npz cannot be used .*does not match its digest"):
        read_npz(tmp_path / "obs_norm.npz")


@pytest.mark.parametrize("bound", [np.inf, 1e308])
def test_statistics_may_be_clipped_nowhere(tmp_path, bound):
    stats = Normalizer({"": np.zeros(2)}, {"": np.ones(2)}, bound, 0.0)
    (tmp_path / "obs_norm.npz").write_bytes(write_npz(stats))
    found = read_npz(tmp_path / "obs_norm.npz")
    obs = np.array([[1e30, -3.0]])
    np.testing.assert_array_equal(found(obs), stats(obs))
    json.dumps(found.to_json(), allow_nan=False)
