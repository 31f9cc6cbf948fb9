"""The bot solves levels as the package's does, recovers from other actions, and always terminates."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("minigrid")

from minigrid.utils.baby_ai_bot import BabyAIBot

from gato_agent.envs.loop import Step, steps
from gato_agent.envs.make import make_vector
from gato_agent.rollouts.collection.noise import Noisy
from gato_agent.rollouts.experts import babyai_bot as babyai
from gato_agent.rollouts.experts.babyai_bot import executed, observe
from gato_agent.rollouts.experts.load import load_expert

LEVELS = ["GoToLocal", "PickupLoc", "PutNextLocal", "UnblockPickup", "SynthSeq", "BossLevel"]


def bot_for(envs: Any, spec: str = "scripted") -> Any:
    spaces = envs.single_observation_space, envs.single_action_space
    return load_expert(spec, envs.envs[0].spec.id, *spaces, envs=envs)


def play(level: str, seeds: range, noise: bool = False, num_envs: int = 1) -> list[Step]:
    envs = make_vector(f"BabyAI-{level}-v0", num_envs)
    bot = bot_for(envs)
    actor = Noisy(bot, envs.single_action_space) if noise else bot
    taken: list[Step] = []
    for batch in [[seed] for seed in seeds] if num_envs == 1 else [seeds]:
        actor.seed(batch[0])
        taken += steps(actor, envs, batch)
    return taken


@pytest.mark.parametrize("level", LEVELS)
def test_its_actions_are_those_of_the_package(level):
    envs = make_vector(f"BabyAI-{level}-v0", 1)
    for seed in range(3):
        ours = [int(step.action) for step in steps(bot_for(envs), envs, [seed])]
        envs.reset(seed=[seed])
        bot, theirs = BabyAIBot(envs.envs[0].unwrapped), []
        while len(theirs) < len(ours):
            theirs.append(int(bot.replan()))
            last = envs.step(np.array(theirs[-1:]))
        assert ours == theirs
        assert last[2][0] and last[1][0] > 0


@pytest.mark.parametrize("level", LEVELS)
def test_it_finds_back_when_other_actions_are_executed(level):
    done = [step for step in play(level, range(8), noise=True) if step.done]
    assert len(done) == 8
    assert np.mean([step.reward > 0 for step in done]) >= 0.75


def test_it_plans_with_things_in_its_hands():
    """The package's bot fails in each of these episodes, which begin with a carried object."""
    assert all(step.reward > 0 for step in play("PutNextS5N2Carrying", range(5)) if step.done)


def test_environments_have_a_bot_each():
    single = [(step.seed, int(step.action)) for step in play("GoToLocal", range(6))]
    several = [(step.seed, int(step.action)) for step in play("GoToLocal", range(6), num_envs=3)]
    assert sorted(single, key=lambda pair: pair[0]) == sorted(several, key=lambda pair: pair[0])


@pytest.mark.parametrize("level", ["UnlockPickup", "PutNextLocal", "KeyInBox", "BossLevel"])
def test_what_was_executed_is_read_off_the_environment(level):
    env = make_vector(f"BabyAI-{level}-v0", 1).envs[0].unwrapped
    rng, seen = np.random.default_rng(0), set()
    for seed in range(20):
        env.reset(seed=seed)
        for action in rng.integers(7, size=150):
            before = observe(env)
            ended = env.step(action)[2]
            after = observe(env)
            assert executed(before, after, env.actions) == (6 if before == after else action)
            seen |= {int(action)} if before != after else set()
            if ended:
                break
    assert {0, 1, 2} < seen


def test_where_the_bot_knows_no_way_it_waits_and_says_so_once(caplog):
    taken = play("KeyInBox", range(2))
    assert "BabyAI-KeyInBox-v0: the bot has no plan in some episodes (AssertionError" in caplog.text
    assert len(caplog.records) == 1
    assert taken[-1].truncated and taken[-1].action == 6


def test_it_says_from_where_on_it_waits():
    for level, first in (("GoToLocal", None), ("KeyInBox", 3)):
        envs = make_vector(f"BabyAI-{level}-v0", 1)
        bot = bot_for(envs)
        waits = [bot.lost for _ in steps(bot, envs, [0])]
        assert waits == [first is not None and t >= first for t in range(len(waits))]


def test_planning_without_end_is_ended(monkeypatch, caplog):
    monkeypatch.setattr(babyai.babyai_bot.GoNextToSubgoal, "replan_before_action", lambda self: None)
    assert {int(step.action) for step in play("GoToLocal", range(1))} == {6}
    assert "RuntimeError: it plans in a cycle" in caplog.text


def test_it_is_the_catalogues_expert_and_says_what_it_is():
    envs = make_vector("BabyAI-GoToLocal-v0", 2)
    expert = bot_for(envs, "catalogue")
    assert expert.provenance["kind"] == "scripted"
    assert expert.provenance["source"] == "minigrid BabyAIBot"
    with pytest.raises(ValueError, match="2 environments, not 1"):
        expert.reset(1)
