"""An expert of a catalogue task that scores like random actions causes a warning in collect and evaluate."""

from types import SimpleNamespace
from typing import Any

import pytest
from gymnasium.spaces import Space

from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.envs.tasks.task import find
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.collection.like_random import EPISODES, FirstEpisodes
from gato_agent.rollouts.storage.writer import Played

SAID = "warning: CartPole-v1: the expert's first 10 episodes have a mean return of"


def clueless(observation_space: Space[Any], action_space: Space[Any]) -> Any:
    return lambda observation: 0


def fair(observation_space: Space[Any], action_space: Space[Any]) -> Any:
    return lambda observation: int(observation[2] + observation[3] > 0)


@pytest.mark.parametrize(
    ("expert", "episodes", "kwargs", "warned"),
    [("clueless", 12, "{}", True), ("clueless", 9, "{}", False), ("clueless", 10, '{"max_episode_steps": 400}', False),
     ("fair", 10, "{}", False)],
)  # fmt: skip
def test_the_first_ten_episodes_tell(
    tmp_path: Any, capsys: Any, expert: str, episodes: int, kwargs: str, warned: bool
) -> None:
    name = f"tests.rollouts.collection.test_like_random:{expert}"
    config = CollectConfig(("CartPole-v1",), expert=name, episodes=episodes, workers=0, out=tmp_path, env_kwargs=kwargs)
    collect(config)
    said = capsys.readouterr().out
    assert said.count(SAID) == warned
    assert ("--expert-statistics, --expert-wrappers" in said) == warned
    evaluate(EvaluateConfig(("CartPole-v1",), expert=name, episodes=episodes, workers=0, env_kwargs=kwargs))
    assert capsys.readouterr().out.count(SAID) == warned


def test_random_actions_are_not_warned_of(tmp_path: Any, capsys: Any) -> None:
    collect(CollectConfig(("CartPole-v1",), expert="random", episodes=10, workers=0, out=tmp_path))
    evaluate(EvaluateConfig(("CartPole-v1",), expert="random", episodes=10, workers=0))
    assert "warning" not in capsys.readouterr().out


def test_where_episodes_end_at_success_that_counts() -> None:
    task = find("Meta-World/reach-v3")
    assert task is not None
    assert task.by_success
    for success, warned in ((False, True), (True, False)):
        first = FirstEpisodes(task)
        episode = SimpleNamespace(about={"success": success})
        said = [first.add(Played(0, seed, episode, 1, 0.0, 0.0)) for seed in range(EPISODES + 5)]
        assert [each is not None for each in said] == [warned and seed == EPISODES - 1 for seed in range(EPISODES + 5)]


def test_of_an_unknown_task_nothing_is_said() -> None:
    assert FirstEpisodes(None).add(Played(0, 0, None, 1, 0.0, 0.0)) is None


def test_a_return_of_a_part_of_an_episode_tells_nothing() -> None:
    """The expert was lost in these episodes; as a success they count, since they are none."""
    episode = SimpleNamespace(about={"success": None, "provenance": {"lost": True}})
    for name, warned in (("MountainCar-v0", False), ("Meta-World/reach-v3", True)):
        first = FirstEpisodes(find(name))
        said = [first.add(Played(0, seed, episode, 1, -200.0, 0.0)) for seed in range(EPISODES)]
        assert (said[-1] is not None) == warned
