"""The agent as an actor, as an SB3 policy, and as something that explains itself."""

import dataclasses
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from gymnasium.vector.utils import batch_space, iterate
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import find_task, matching_task
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.spaces.view_transforms import Select
from gato_agent.envs.spaces.views import EVERYTHING, View
from gato_agent.inference.agent import Agent
from gato_agent.inference.options import resolve_device
from gato_agent.model import embedding
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from tests.helpers.harsh import harsh
from tests.helpers.scribblers import scribble
from tests.helpers.shapes import LAYOUTS, NANO

SMALL = dataclasses.replace(GatoConfig.nano(), context=48, layers=2)
RICH = Dict({"camera": Box(0, 255, (32, 20, 3), np.uint8), "goal": Tuple((Discrete(3), Box(-np.inf, np.inf, (2,))))})
HANDS = Dict({"grip": Discrete(2, start=1), "move": Box(-2, 3, (2,)), "keys": MultiDiscrete([3, 4])})


def checkpoint_for(*tasks: TrainedTask) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(Gato(SMALL).eval(), {task.id: task for task in tasks}, name="test weights")


def task_of(env_id: str) -> TrainedTask:
    env = gym.make(env_id)
    return TrainedTask(env_id, env.observation_space, env.action_space)


def agent_for(observation: Space[Any], action: Space[Any], **kwargs: Any) -> Agent:
    task = TrainedTask("Toy-v0", observation, action)
    return Agent(checkpoint_for(task), task, **kwargs)


def test_it_has_the_spaces_of_its_task_and_prints_what_it_is() -> None:
    agent = agent_for(RICH, HANDS)
    assert (agent.observation_space, agent.action_space) == (RICH, HANDS)
    count = sum(parameter.numel() for parameter in agent.model.parameters())
    assert repr(agent) == f"Agent(nano, {count:,} parameters, Toy-v0, cpu)"


def test_sb3_evaluates_it_unchanged() -> None:
    task = task_of("CartPole-v1")
    agent = Agent(checkpoint_for(task), task)
    returns, lengths = evaluate_policy(
        agent,
        make_vec_env("CartPole-v1", 3, seed=0),
        n_eval_episodes=7,
        return_episode_rewards=True,  # type: ignore[arg-type]
    )
    assert len(returns) == 7
    assert returns == lengths
    again, _ = evaluate_policy(
        agent,
        make_vec_env("CartPole-v1", 3, seed=0),
        n_eval_episodes=7,
        return_episode_rewards=True,  # type: ignore[arg-type]
    )
    assert returns == again


@pytest.mark.parametrize("view", [EVERYTHING, View((Select("goal/1", (1,)),))], ids=["all", "view"])
@pytest.mark.parametrize("action_decoder", [False, True])
def test_what_is_written_into_its_arrays_changes_nothing(view: View, action_decoder: bool) -> None:
    config = dataclasses.replace(SMALL, values_per_token=1, action_decoder=action_decoder)
    taken: list[list[Any]] = []
    for spoil in (False, True):
        task = TrainedTask("Toy-v0", RICH, HANDS, view=view)
        torch.manual_seed(0)
        agent = Agent(Checkpoint(Gato(config).eval(), {task.id: task}, name="test weights"), task)
        space = batch_space(RICH, 2)
        space.seed(3)
        agent.reset(2)
        taken.append([])
        for t in range(6):
            observation, start = space.sample(), np.full(2, t in (0, 3))
            action = agent.act(observation, start)
            taken[-1].append(deepcopy(action))
            if t % 3 == 2:
                agent.follow(observation, action, start & False)
            if spoil:
                scribble([observation, action, start])
    np.testing.assert_equal(*taken)


def test_predict_takes_one_observation_or_many() -> None:
    agent = agent_for(Box(-1, 1, (3,)), Box(-2, 2, (2,)))
    one = np.array([0.1, 0.2, -0.3], dtype=np.float32)
    action, _ = agent.predict(one)
    assert action.shape == (2,)
    assert agent.task.action_space.contains(action)
    many, state = agent.predict(np.stack([one, one]))
    assert many.shape == (2, 2)
    np.testing.assert_array_equal(many[0], action)
    after, _ = agent.predict(np.stack([one, one]), state, np.array([False, True]))
    np.testing.assert_array_equal(after[1], many[1])  # a new episode gives the first action again


def test_actions_are_always_in_the_space_in_any_mix_of_environments() -> None:
    agent = agent_for(RICH, HANDS, temperature=5.0)
    observations = batch_space(RICH, 3)
    observations.seed(0)
    agent.reset(3)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = agent.act(observations.sample(), rng.random(3) < 0.2)
        assert all(HANDS.contains(action) for action in iterate(batch_space(HANDS, 3), actions))


def test_environments_play_as_single_environments_do() -> None:
    task = task_of("CartPole-v1")
    agent = Agent(checkpoint_for(task), task)

    def episodes(num_envs: int) -> dict[int, list[tuple[int, Any]]]:
        actual: dict[int, list[tuple[int, Any]]] = {}
        for step in steps(agent, make_vector("CartPole-v1", num_envs), range(9)):
            actual.setdefault(step.seed, []).append((step.t, int(step.action)))
        return actual

    assert episodes(1) == episodes(4)


@pytest.mark.parametrize("limit", [2, 10_000])
def test_a_environments_numbers_are_its_own_whatever_others_see_and_was_seen_before(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Patches are embedded before the compiled step runs, each only once."""
    monkeypatch.setattr(embedding, "KNOWN", limit)
    task = TrainedTask("Toy-v0", RICH, HANDS)
    alone, together = Agent(checkpoint_for(task), task), Agent(checkpoint_for(task), task)
    alone.reset(1)
    together.reset(3)
    space = batch_space(RICH, 3)
    space.seed(0)
    observations = [space.sample() for _ in range(6)]
    for observation in observations + observations[:2]:
        one = {"camera": observation["camera"][1:2], "goal": tuple(part[1:2] for part in observation["goal"])}
        alone.act(one)
        together.act(observation)
        for a, b in zip(alone._stepper.decoder.logits, together._stepper.decoder.logits, strict=True):
            assert torch.equal(a[0], b[1])


def test_sampling_repeats_with_its_seed_and_not_with_another() -> None:
    observation = np.zeros((1, 3), dtype=np.float32)

    def actions(seed: int) -> list[float]:
        agent = agent_for(Box(-1, 1, (3,)), Box(-1, 1, (1,)), temperature=1.0, seed=seed)
        return [float(agent.act(observation)[0, 0]) for _ in range(10)]

    assert actions(3) == actions(3) != actions(4)
    with pytest.raises(UsageError, match="use 0 for greedy"):
        agent_for(Box(-1, 1, (3,)), Discrete(2), temperature=-1.0)


def test_deterministic_predictions_are_greedy_whatever_the_temperature() -> None:
    observations = np.random.default_rng(0).uniform(-1, 1, (8, 3)).astype(np.float32)

    def actions(temperature: float, *, deterministic: bool) -> list[float]:
        agent, state, actual = agent_for(Box(-1, 1, (3,)), Box(-1, 1, (1,)), temperature=temperature), None, []
        for observation in observations:
            action, state = agent.predict(observation, state, deterministic=deterministic)
            actual.append(float(action[0]))
        return actual

    greedy = actions(0.0, deterministic=False)
    assert actions(1.0, deterministic=True) == greedy
    assert not set(actions(1.0, deterministic=False)) & set(greedy)  # among 1,024 bins none is met by chance


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_distribution_takes_no_step(layout: str) -> None:
    """Nor anything out of the context, where the cache is not larger than it must be."""
    config = dataclasses.replace(NANO, layers=2, context=61, **LAYOUTS[layout])
    task = TrainedTask("Toy-v0", Box(-1, 1, (2,)), Box(-1, 1, (3,)))
    inspected, silent = (Agent(Checkpoint(harsh(config), {task.id: task}), task) for _ in range(2))
    observations = np.random.default_rng(0).uniform(-1, 1, (60, 2, 2)).astype(np.float32)
    for agent in (inspected, silent):
        agent.reset(2)
    for observation in observations:
        inspected.distribution(observation)
        for action, other in zip(inspected.act(observation), silent.act(observation), strict=True):
            assert np.array_equal(action, other)
        for a, b in zip(inspected._stepper.decoder.logits, silent._stepper.decoder.logits, strict=True):
            assert torch.equal(a, b)


def test_a_bad_observation_is_named() -> None:
    agent = agent_for(Dict({"arm": Box(-1, 1, (3,))}), Discrete(2))
    good = {"arm": np.zeros((2, 3), dtype=np.float32)}
    agent.reset(2)
    agent.act(good)
    bad = {"arm": np.array([[0, 0, 0], [0, np.nan, 0]], dtype=np.float32)}
    with pytest.raises(GatoError, match=r"Toy-v0: observation in environment 1, step 1: 'arm'"):
        agent.act(bad)


def test_a_task_is_found_by_id_or_by_its_spaces(caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = checkpoint_for(task_of("CartPole-v1"), task_of("Pendulum-v1"))
    assert find_task(checkpoint, "CartPole-v1").id == "CartPole-v1"
    assert find_task(checkpoint, gym.make("Pendulum-v1")).id == "Pendulum-v1"
    assert find_task(checkpoint, make_vector("Pendulum-v1", 2)).id == "Pendulum-v1"
    assert not caplog.records
    assert find_task(checkpoint, gym.make("CartPole-v0")).id == "CartPole-v1"  # same spaces, another id
    assert "was not trained on CartPole-v0: it acts as in CartPole-v1, whose spaces are the same" in caplog.text
    find_task(dataclasses.replace(checkpoint, name="shipped weights"), gym.make("CartPole-v0"))
    assert "the shipped weights were not trained on CartPole-v0: they act as in CartPole-v1" in caplog.text
    caplog.clear()
    assert matching_task(checkpoint, gym.make("CartPole-v0")).id == "CartPole-v1" and not caplog.records
    with pytest.raises(UsageError, match=r"not know Acrobot-v1\. .*Known tasks: CartPole-v1, Pendulum-v1 "):
        find_task(checkpoint, gym.make("Acrobot-v1"))
    with pytest.raises(UsageError, match="collect --env Nothing-v0"):
        find_task(checkpoint, "Nothing-v0")


def test_a_task_whose_spaces_changed_is_refused() -> None:
    changed = dataclasses.replace(task_of("CartPole-v1"), action_space=Discrete(3))
    with pytest.raises(
        UsageError, match=r"CartPole-v1 has other spaces .*: actions Discrete\(2\) instead of Discrete\(3\);"
    ):
        find_task(checkpoint_for(changed), gym.make("CartPole-v1"))


def test_an_observation_longer_than_the_position_table_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Toy-v0: an observation takes 625 tokens .* 512"):
        agent_for(Box(-1, 1, (40_000,)), Discrete(2))


def test_a_single_observation_is_told_from_a_batch_whatever_its_values() -> None:
    agent = agent_for(Box(-1, 1, (3,)), Discrete(2))
    for odd in ([0.0, 5.0, 0.0], np.zeros(3, np.float64)):
        action, _ = agent.predict(np.asarray(odd))
        assert agent.task.action_space.contains(action)
    with pytest.raises(GatoError, match=r"nan"):
        agent.predict(np.array([np.nan, 0, 0], dtype=np.float32))
    nested = agent_for(RICH, HANDS)
    action, _ = nested.predict(RICH.sample())
    assert HANDS.contains(action)


def test_the_number_of_environments_is_checked() -> None:
    agent = agent_for(Box(-1, 1, (3,)), Discrete(2))
    agent.reset(2)
    with pytest.raises(UsageError, match=r"3 observations for 2 environments: call reset"):
        agent.act(np.zeros((3, 3), np.float32))


def test_vectors_without_a_spec_are_found_by_their_spaces() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    checkpoint = checkpoint_for(task_of("CartPole-v1"))
    assert find_task(checkpoint, DummyVecEnv([lambda: gym.make("CartPole-v1")])).id == "CartPole-v1"


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(UsageError, match=r"--device gpu cannot be used here"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == "cpu"
        with pytest.raises(UsageError, match=r"choose auto or cpu"):
            resolve_device("cuda")


@pytest.mark.parametrize("temperature", [-1, 1e-320, 1e-39, float("nan"), float("inf")])
def test_a_temperature_that_cannot_be_sampled_at_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match="use 0 for greedy actions, or 1e-06 and more"):
        agent_for(RICH, HANDS, temperature=temperature)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64 - 1, 10**30])
def test_any_integer_is_a_seed(seed: int) -> None:
    agent = agent_for(Discrete(3), Discrete(5), temperature=1.0, seed=seed)
    assert agent.act(np.zeros(3, np.int64)).shape == (3,)


@pytest.mark.parametrize("num_envs", [10**8, 2**31, 2**62, 2**63, 10**30])
def test_more_environments_than_memory_holds_are_refused_and_the_episodes_go_on(num_envs: int) -> None:
    agent, alone = agent_for(Discrete(3), Discrete(5)), agent_for(Discrete(3), Discrete(5))
    for each in (agent, alone):
        each.act(np.array([0, 1]))
    with pytest.raises(UsageError, match=r"Toy-v0: there is no memory for .* environments .*: use fewer"):
        agent.reset(num_envs)
    assert agent.act(np.array([2, 1])).tolist() == alone.act(np.array([2, 1])).tolist()


def test_arguments_of_no_form_are_named() -> None:
    agent, observation = agent_for(Discrete(3), Discrete(5)), np.zeros(3, np.int64)
    with pytest.raises(UsageError, match="num-envs 0"):
        agent.predict(observation[:0])
    for start in ([[True], [True, False], 1], np.ones(2, bool), True, {"a": 1}):
        with pytest.raises(UsageError, match=r"episode starts of shape .* for 3 environments"):
            agent.act(observation, start)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"episode starts of shape .* for 3 environments"):
            agent.predict(observation, episode_start=start)  # type: ignore[arg-type]
    for masks in (5, (None for _ in range(3)), [None]):
        with pytest.raises(UsageError, match="action masks for 3 environments"):
            agent.act(observation, masks=masks)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="precision 'float16': choose one of float32, bfloat16, int8"):
        agent_for(Discrete(3), Discrete(5), precision="float16")
