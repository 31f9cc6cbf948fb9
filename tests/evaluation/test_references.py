"""Tasks outside the catalogue have a score between random actions and the user's expert."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.envs.errors import UsageError
from gato_agent.evaluation.references import ReferenceJob, References, as_expert, needs_references, reference_jobs
from gato_agent.evaluation.task_score import Outcome, score
from gato_agent.evaluation.worker import EvaluationSettings

SETTINGS = EvaluationSettings("shipped", None, None, 3, 0, 1)
SHORT = '{"max_episode_steps": 60}'


def outcomes(*totals: float) -> list[Outcome]:
    return [Outcome(seed, total, 1, None) for seed, total in enumerate(totals)]


def job(role: Any) -> ReferenceJob:
    return ReferenceJob("Own-v0", "Own-v0", as_expert(SETTINGS, "zip"), role)


@pytest.mark.parametrize("before", [True, False])
def test_references_make_a_score_in_any_order(before: bool) -> None:
    references = References()
    known = score("Own-v0", outcomes(30.0, 50.0))
    assert references.applied(known) == known and known.normalized is None
    for role, totals in (("random", (10.0, 30.0)), ("expert", (90.0, 110.0))):
        assert "the " + role in references.add(job(role), outcomes(*totals))
        known = known if before else references.applied(known)
    known = references.applied(known)
    assert (known.random, known.expert, known.normalized) == (20.0, 100.0, 0.25)
    assert known.normalized_ci95 is not None and known.normalized_ci95[0] <= 0.25 <= known.normalized_ci95[1]
    assert known.sample() is not None


def test_only_an_agent_outside_of_the_catalogue_needs_references() -> None:
    assert needs_references("Own-v0", SETTINGS)
    assert not needs_references("CartPole-v1", SETTINGS)
    assert needs_references("CartPole-v1", replace(SETTINGS, env_kwargs={"a": 1}))
    assert not needs_references("Own-v0", as_expert(SETTINGS, "random"))
    wanted = {"Own-v0": "own:Own-v0", "CartPole-v1": "CartPole-v1"}
    jobs = reference_jobs(wanted, {}, SETTINGS, as_expert(SETTINGS, "zip"))
    assert [(each.env, each.role, each.settings.expert) for each in jobs] == [
        ("own:Own-v0", "random", "random"), ("own:Own-v0", "expert", "zip")
    ]  # fmt: skip
    done = {"Own-v0": replace(score("Own-v0", outcomes(1.0)), random=0.0)}
    assert [each.role for each in reference_jobs(wanted, done, SETTINGS, as_expert(SETTINGS, "zip"))] == ["expert"]
    assert reference_jobs(wanted, done, SETTINGS, None) == []


def test_evaluate_plays_them_beside_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EvaluateConfig(
        env=("CartPole-v1",), checkpoint="shipped", expert="catalogue", env_kwargs=SHORT, episodes=3, workers=0,
        out=tmp_path,
    )  # fmt: skip
    task = evaluate(config).tasks["CartPole-v1"]
    assert (task.mean, task.expert, task.normalized) == (60.0, 60.0, 1.0)
    assert task.random is not None and 8 < task.random < 60
    out = capsys.readouterr().out
    assert "CartPole-v1 (random): mean" in out and "CartPole-v1 (catalogue): mean 60.00, the expert score" in out
    assert out.startswith("1 task with shipped weights: 3 episodes a task\n")
    assert "steps/s; 1 of 1 tasks" in out  # references are no tasks
    assert evaluate(config).tasks["CartPole-v1"] == task
    assert "(random)" not in capsys.readouterr().out
    alone = evaluate(replace(config, expert=None, out=None)).tasks["CartPole-v1"]
    assert (alone.random, alone.expert, alone.normalized) == (task.random, None, None)


def test_a_reference_that_cannot_be_played_keeps_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    config = EvaluateConfig(
        env=("CartPole-v1",), checkpoint="shipped", expert="nowhere.zip", env_kwargs=SHORT, episodes=1, workers=0
    )
    task = evaluate(config).tasks["CartPole-v1"]
    assert task.mean == 60.0 and task.expert is None
    assert "no expert score: " in capsys.readouterr().out


def test_an_environment_that_is_played_as_another_has_references_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gym.register("Alike-v0", "gymnasium.envs.classic_control.cartpole:CartPoleEnv", max_episode_steps=60)
    config = EvaluateConfig(
        env=("Alike-v0", "CartPole-v1"), checkpoint="shipped", expert="random", episodes=3, workers=0, out=tmp_path
    )
    task = evaluate(config).tasks["Alike-v0"]
    assert task.mean == 60.0 and task.random is not None and task.random == task.expert
    assert "Alike-v0 (random), Alike-v0 (random): 3 episodes a task" in capsys.readouterr().out
    unknown = replace(config, env=("Blackjack-v1",), out=None)
    with pytest.raises(UsageError, match="not know Blackjack-v1"):  # nothing is played beside it
        evaluate(unknown)
    assert "(random)" not in capsys.readouterr().out
