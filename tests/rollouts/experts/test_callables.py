"""Every accepted form of a user's expert acts correctly; every other is refused before any episode is played."""

import sys
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO

from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.experts.expert import Expert
from gato_agent.rollouts.experts.forms import ACCEPTED
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.storage.episode_store import open_stores
from tests.helpers.testing_env import TestingEnv

ACTIONS: list[Space[Any]] = [
    Discrete(5),
    Discrete(5, start=-2),
    Box(-1, 1, (3,), np.float32),
    Box(-1, 1, (1,), np.float32),
    Box(-1, 1, (), np.float32),
    Box(-1, 1, (2, 3), np.float32),
    MultiDiscrete([3, 4]),
    MultiBinary(4),
    Text(4),
    Dict(a=Discrete(3), b=Box(-1, 1, (2,), np.float32)),
    Tuple((Discrete(3), MultiDiscrete([2, 2]))),
]
OBSERVED = Box(-np.inf, np.inf, (2,), np.float64)  # seed and step


def table(space: Space[Any]) -> list[Any]:
    """Ten actions; the right one at step t is number t."""
    space.seed(1)
    return [space.sample() for _ in range(10)]


class Checked(TestingEnv):
    """Environment that rewards the actions of the table."""

    def __init__(self, space: Space[Any], render_mode: str | None = None) -> None:
        super().__init__(action_space=space, length=6)
        self.table = table(space)

    def step(self, action: Any) -> Any:
        try:
            np.testing.assert_allclose(leaf_list(action), leaf_list(self.table[self.t]))
        except (AssertionError, ValueError, TypeError):
            right = repr(action) == repr(self.table[self.t])
        else:
            right = True
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float(right), terminated, truncated, info


def leaf_list(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in leaf_list(value[key])]
    if isinstance(value, tuple):
        return [x for item in value for x in leaf_list(item)]
    return np.ravel(value).tolist()


gym.register("Checked-v0", entry_point=Checked)


# Answers of a single action, and of a batch


def plain(value: Any) -> Any:
    """Values as Python numbers and lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value if isinstance(value, str) else np.asarray(value).tolist()


def tensors(value: Any) -> Any:
    """Values as PyTorch tensors, with a gradient for floats."""
    if isinstance(value, dict):
        return {key: tensors(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(tensors(item) for item in value)
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    return torch.tensor(array, requires_grad=array.dtype.kind == "f")


STYLES = {"as it is": lambda value: value, "plain": plain, "tensors": tensors}


def stacked(space: Space[Any], values: list[Any]) -> Any:
    if isinstance(space, Dict):
        return {key: stacked(child, [value[key] for value in values]) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(stacked(child, [value[i] for value in values]) for i, child in enumerate(space.spaces))
    return tuple(values) if isinstance(space, Text) else np.stack(values)


class Teller:
    """Expert that returns the table's actions by its own step count, so that a missing reset shows."""

    def __init__(self, space: Space[Any], style: Any, counts: bool) -> None:
        self.space, self.style, self.counts, self.t = space, style, counts, 0
        self.table = table(space)
        self.seeds: list[Any] = []
        self.batches: list[int] = []

    def one(self, observation: Any) -> Any:
        assert np.shape(observation) == OBSERVED.shape, "a batch for a single observation"
        index = self.t if self.counts else int(observation[1])
        self.t += 1
        return self.style(self.table[index])

    def many(self, observation: Any) -> Any:
        assert np.shape(observation)[1:] == OBSERVED.shape, "a single observation for a batch"
        indices = [self.t] * len(observation) if self.counts else observation[:, 1].astype(int).tolist()
        self.t += 1
        self.batches.append(len(observation))
        return self.style(stacked(self.space, [self.table[i] for i in indices]))


def forms(teller: Teller) -> dict[str, dict[str, Any]]:
    """Name of a form -> attributes of its expert."""

    def as_sb3(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic is True
        assert len(episode_start) == len(observation)
        return teller.many(observation), (state or 0) + 1

    def as_old_sb3(self, observation, state=None, mask=None, deterministic=False):
        return teller.many(observation), state

    def with_a_state(self, observation, state=None):
        assert state is None or state > 0
        return teller.many(observation), (state or 0) + 1

    def greedy(self, x, deterministic):  # a pair would be taken for the actions where these are one
        return teller.many(x) if isinstance(teller.space, Tuple) else (teller.many(x), None)

    return {
        "predict, SB3": {"predict": as_sb3},
        "predict, old SB3": {"predict": as_old_sb3},
        "predict, with a state": {"predict": with_a_state},
        "predict, any keywords": {"predict": lambda self, obs, *args, **kwargs: (teller.many(obs), kwargs["state"])},
        "predict, greedy": {"predict": greedy},
        "predict, actions alone": {"predict": lambda self, x: teller.many(x)},
        "act, Actor": {"act": lambda self, observation, start: teller.many(observation)},
        "act, Actor, unused": {"act": lambda self, observation, _start: teller.many(observation)},
        "act, one": {"act": lambda self, obs: teller.one(obs)},
        "act, one and an option": {"act": lambda self, obs, epsilon=0.0: teller.one(obs) if epsilon == 0 else None},
        "act, written for batches": {"act": lambda self, obs: teller.many(obs)},
        "call, one": {"__call__": lambda self, obs: teller.one(obs)},
    }


def resets(teller: Teller) -> dict[str, dict[str, Any]]:
    """Signature of `reset` -> attributes of its expert."""

    def back(seed: Any = None, n: Any = 1) -> None:
        teller.t = 0
        assert isinstance(n, int)
        if seed is not None:
            teller.seeds.append(seed)

    return {
        "none": {},
        "attributes": {"seed": None, "reset": 3, "lost": "no"},
        "reset()": {"reset": lambda self: back()},
        "reset(n)": {"reset": lambda self, n: back(n=n)},
        "reset(whatever)": {"reset": lambda self, whatever: back(n=whatever)},
        "reset(n, /)": {"reset": positional(back)},
        "reset(num_envs=4)": {"reset": lambda self, num_envs=4: back(n=num_envs)},
        "reset(seed)": {"reset": lambda self, seed: back(seed)},
        "reset(*, seed, options)": {"reset": lambda self, *, seed=None, options=None: back(seed)},
        "reset(options, seed)": {"reset": lambda self, options, seed: back(seed)},
        "reset(num_envs, seed)": {"reset": lambda self, num_envs, seed: back(seed, num_envs)},
        "reset(*args, **kwargs)": {"reset": lambda self, *args, **kwargs: back()},
        "seed(seed)": {"reset": lambda self: back(), "seed": lambda self, seed: teller.seeds.append(seed)},
        "seed()": {"reset": lambda self: back(), "seed": lambda self: 1 / 0},
    }


def positional(back: Any) -> Any:
    def reset(self, n, /):
        back(n=n)

    return reset


def makers(expert: Any) -> dict[str, Any]:
    """Description -> object that is or makes the expert."""

    def initialise(self: Any, observation_space: Any, action_space: Any) -> None: ...

    return {
        "two": lambda observation_space, action_space: expert,
        "two of any name": lambda o, a: expert,
        "by name alone": lambda *, action_space, observation_space: expert,
        "any": lambda *args, **kwargs: expert,
        "none": lambda: expert,
        "with defaults": lambda path="model.zip", device="cpu": expert if (path, device) == ("model.zip", "cpu") else 0,
        "a class": type(expert),
        "a class of spaces": type("Made", (type(expert),), {"__init__": initialise}) if expert else None,
        "itself": expert,
    }


FORM_NAMES, RESET_NAMES = list(forms(Teller(Discrete(2), None, False))), list(resets(Teller(Discrete(2), None, False)))
MAKER_NAMES = list(makers(None))


def loaded(name: str, value: Any, space: Space[Any] | None = None) -> Expert:
    module = ModuleType("made_here")
    setattr(module, name, value)
    sys.modules["made_here"] = module
    return load_expert(f"made_here:{name}", "Checked-v0", OBSERVED, space or Discrete(2))


@given(
    st.sampled_from(ACTIONS), st.sampled_from(FORM_NAMES), st.sampled_from(RESET_NAMES), st.sampled_from(MAKER_NAMES),
    st.sampled_from(list(STYLES)), st.booleans(),
)  # fmt: skip
def test_every_form_acts_as_it_says(
    space: Space[Any], form: str, reset: str, maker: str, style: str, collected: bool
) -> None:
    resettable = reset not in ("none", "attributes")
    teller = Teller(space, STYLES[style], counts=resettable)
    kind = type("Made", (), {**forms(teller)[form], **resets(teller)[reset]})
    expert = loaded("expert", makers(kind())[maker], space)
    if isinstance(space, Text) and style == "tensors":
        return
    envs = make_vector("Checked-v0", 1, env_kwargs={"space": space})
    total, seeds = 0.0, [7, 3, 5]
    if collected:  # an episode at a time, its seed told
        for seed in seeds:
            expert.seed(seed)
            total += sum(step.reward for step in steps(expert, envs, [seed]))
    else:  # one after the other, as in evaluation by a loop of the user's own
        total = sum(step.reward for step in steps(expert, envs, seeds))
    assert total == 3 * 6
    if collected and "seed" in reset and reset not in ("seed()", "attributes"):
        assert set(seeds) <= set(teller.seeds)
    assert not getattr(expert, "lost", False)


@pytest.mark.parametrize("space", ACTIONS, ids=str)
@pytest.mark.parametrize("form", FORM_NAMES)
def test_several_environments_at_once(space: Space[Any], form: str) -> None:
    teller = Teller(space, STYLES["as it is"], counts=False)
    expert = loaded("expert", type("Made", (), forms(teller)[form])(), space)
    envs = make_vector("Checked-v0", 3, env_kwargs={"space": space})
    assert sum(step.reward for step in steps(expert, envs, range(5))) == 5 * 6


class Nothing:
    """Object of no accepted form."""


def refused() -> dict[str, Any]:
    """Description -> object of no accepted form."""

    def named(**functions: Any) -> Any:
        return type("Made", (), functions)()

    acts = {"act": lambda self, observation, start: observation}
    return {
        "None": lambda: None,
        "an object": Nothing,
        "a number": 3,
        "a dict": lambda: {"predict": 1},
        "a class": lambda: Nothing,
        "an SB3 class": lambda: PPO,
        "attributes": lambda: named(predict=1, act="act"),
        "act()": lambda: named(act=lambda self: 0),
        "act(observation, hidden)": lambda: named(act=lambda self, observation, hidden: 0),
        "predict()": lambda: named(predict=lambda self: 0),
        "predict(observation, hidden)": lambda: named(predict=lambda self, observation, hidden: 0),
        "call()": lambda: named(__call__=lambda self: 0),
        "reset(env)": lambda: named(reset=lambda self, env: 0, **acts),
        "reset(observation)": lambda: named(reset=lambda self, observation: 0, **acts),
        "reset(a, b)": lambda: named(reset=lambda self, a, b: 0, **acts),
        "make(env, observation)": lambda env, observation: 0,
        "make(env)": lambda env: named(**acts),
        "make(env_id, path, more)": lambda env_id, path, more: named(**acts),
        "a class of an environment": type("Made", (), {"__init__": lambda self, env: None, **acts}),
    }


@pytest.mark.parametrize("wrong", list(refused()))
def test_what_has_none_of_the_forms_is_refused_once_with_all_of_them(wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded("thing", refused()[wrong])
    said = str(caught.value)
    assert said.startswith("--expert made_here:thing: ")
    assert said.endswith(ACCEPTED)
    assert "\n" not in said


ANSWERS = {
    "too many": [0, 1, 0],
    "of another shape": np.zeros((2, 2)),
    "nothing": {},
    "ragged": [[0], [0, 1]],
}


@pytest.mark.parametrize("answer", list(ANSWERS))
@pytest.mark.parametrize("form", ["predict", "act", "call"])
def test_what_is_no_action_is_refused_before_anything_is_played(tmp_path: Any, form: str, answer: str) -> None:
    wrong = ANSWERS[answer]
    kinds = {
        "predict": {"predict": lambda self, observation, deterministic=True: (wrong, None)},
        "act": {"act": lambda self, observation, start: wrong},
        "call": {"__call__": lambda self, observation: wrong},
    }
    module = ModuleType("made_here")
    module.expert = type("Made", (), kinds[form])()  # type: ignore[attr-defined]
    sys.modules["made_here"] = module
    config = CollectConfig(("CartPole-v1",), expert="made_here:expert", episodes=3, workers=0, out=tmp_path / "data")
    with pytest.raises(UsageError, match=r"--expert made_here:expert returned .*Discrete\(2\); accepted are"):
        collect(config)
    assert not (tmp_path / "data").exists()
    with pytest.raises(UsageError, match="--expert made_here:expert returned"):
        evaluate(EvaluateConfig(("CartPole-v1",), expert="made_here:expert", episodes=2, workers=0))


MODELS = {
    "PPO": lambda: PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu", seed=3),
    "DQN": lambda: DQN("MlpPolicy", "CartPole-v1", device="cpu"),
}


@pytest.mark.parametrize("part", ["model", "policy"])
@pytest.mark.parametrize("algo", list(MODELS))
def test_models_and_policies_of_sb3_act_as_they_predict(tmp_path: Any, algo: str, part: str) -> None:
    model = MODELS[algo]()
    module = ModuleType("made_here")
    module.expert = lambda: model if part == "model" else model.policy  # type: ignore[attr-defined]
    module.itself = model if part == "model" else model.policy  # type: ignore[attr-defined]
    sys.modules["made_here"] = module
    for name in ("expert", "itself"):
        out = tmp_path / name
        collect(CollectConfig(("CartPole-v1",), expert=f"made_here:{name}", episodes=2, workers=0, out=out))
        (store,) = open_stores(out)
        for index in store.indices():
            episode = store.read(index)
            wanted, _ = model.predict(episode.observations[""][:-1], deterministic=True)
            np.testing.assert_array_equal(episode.actions[""], wanted)
    results = evaluate(EvaluateConfig(("CartPole-v1",), expert="made_here:expert", episodes=2, seed=0, workers=0))
    assert results.tasks["CartPole-v1"].mean == np.mean([store.read(index).total for index in store.indices()])


def test_only_a_bool_says_that_an_expert_is_lost() -> None:
    acts = {"act": lambda self, observation, start: observation}
    for lost, said in ((True, True), (np.bool_(True), True), (False, False), (lambda self: True, False), ([1], False)):
        assert loaded("expert", type("Made", (), {"lost": lost, **acts})()).lost is said


def test_what_an_expert_raises_is_told_with_its_name() -> None:
    def raises(*args: Any) -> Any:
        raise ValueError("no idea")

    acts = {"act": lambda self, observation, start: observation}
    for functions in ({"act": lambda self, observation, start: raises()}, {"reset": raises, **acts}):
        expert = loaded("expert", type("Made", (), functions)())
        with pytest.raises(GatoError, match=r"^--expert made_here:expert raised ValueError: no idea$"):
            expert.act(np.zeros((1, 2)), np.ones(1, np.bool_))
    with pytest.raises(GatoError, match=r"^--expert made_here:expert raised ValueError: no idea$"):
        loaded("expert", lambda observation_space, action_space: raises())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool])
@pytest.mark.parametrize("place", ["whole", "list", "tuple", "dict"])
def test_tensors_of_any_dtype_are_actions_in_any_place(dtype: torch.dtype, place: str) -> None:
    tensor = torch.tensor([0, 1], dtype=dtype, requires_grad=dtype.is_floating_point)
    answer = {"whole": tensor, "list": list(tensor), "tuple": tuple(tensor), "dict": {"a": tensor}}[place]
    space: Space[Any] = Dict(a=Box(-1, 1, (2,))) if place == "dict" else Box(-1, 1, (2,))
    acted = loaded("expert", lambda observation: answer, space).act(np.zeros((1, 2)), np.ones(1, np.bool_))
    assert np.array_equal(acted["a"] if place == "dict" else acted, [[0, 1]])


def test_an_expert_that_exits_is_told_with_its_name() -> None:
    leaver = type("Made", (), {"act": lambda self, observation: sys.exit(0)})()
    with pytest.raises(GatoError, match=r"^--expert made_here:expert raised SystemExit: 0$"):
        loaded("expert", leaver).act(np.zeros((1, 2)), np.ones(1, np.bool_))
    with pytest.raises(GatoError, match=r"^--expert made_here:expert raised SystemExit: 3$"):
        loaded("expert", lambda observation_space, action_space: sys.exit(3))


def test_spaces_are_the_makers_own() -> None:
    space = Box(-1, 1, (2,))

    def make(observation_space: Any, action_space: Any) -> Any:
        action_space.low[:] = 7
        return lambda observation: np.zeros(2)

    loaded("make", make, space)
    assert space.low.tolist() == [-1, -1]
