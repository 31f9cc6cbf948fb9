"""What is made of episodes: returns, success, and a score that is of either."""

import pytest

from gato_agent.envs.make import make_vector
from gato_agent.envs.random_actor import RandomActor
from gato_agent.envs.task import Task, find
from gato_agent.evaluate import Played, play_episodes, score


def episodes(*totals: float, success: bool | None = None) -> list[Played]:
    return [Played(seed, total, 7, success) for seed, total in enumerate(totals)]


def test_a_score_is_the_share_of_the_way_from_random_to_expert() -> None:
    task = find("CartPole-v1")
    assert task is not None and task.random is not None and task.expert is not None
    found = score("CartPole-v1", episodes(100.0, 300.0))
    assert (found.mean, found.random, found.expert) == (200.0, task.random.mean, task.expert.mean)
    assert found.normalized == pytest.approx((200 - task.random.mean) / (task.expert.mean - task.random.mean))
    assert found.success is None
    other = score("CartPole-v1", episodes(100.0), comparable=False)
    assert (other.random, other.expert, other.normalized) == (None, None, None)
    assert score("Unknown-v0", episodes(1.0)).normalized is None


def test_where_episodes_end_at_success_the_score_is_of_success() -> None:
    """A quick success has little return: a random player that never succeeds may have more."""
    task = find("Meta-World/coffee-button-v3")
    assert task is not None and task.random is not None and task.expert is not None
    assert task.by_success
    assert task.expert.mean < task.random.mean
    solved = [*episodes(20.0, 21.0, 22.0, success=True), *episodes(170.0, success=False)]
    found = score(task.id, solved)
    assert found.success == 0.75
    assert (found.random, found.expert) == (task.random.success, task.expert.success)
    assert found.normalized == pytest.approx((0.75 - found.random) / (found.expert - found.random))


def test_success_is_read_where_a_task_knows_it() -> None:
    assert (find("CartPole-v1") or Task("", "")).success is None
    envs = make_vector("CartPole-v1", 2)
    played = list(play_episodes(RandomActor(envs.single_action_space, 0), envs, range(3), "CartPole-v1"))
    assert sorted(each.seed for each in played) == [0, 1, 2]
    assert all(each.success is None and each.total == each.length for each in played)


@pytest.mark.parametrize("task", ["BabyAI-GoToObj-v0"])
def test_success_is_that_of_any_step(task: str) -> None:
    pytest.importorskip("minigrid")
    from gato_agent.rollouts.experts import load_expert

    envs = make_vector(task, 1)
    expert = load_expert("catalogue", task, envs.single_observation_space, envs.single_action_space, envs=envs)
    played = list(play_episodes(expert, envs, range(4), task))
    known = find(task)
    assert known is not None
    assert all(each.success is (None if known.success is None else True) for each in played)
