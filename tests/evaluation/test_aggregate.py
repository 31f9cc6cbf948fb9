"""Aggregates over families and groups of tasks, and tasks that count in none of them."""

from gato_agent.envs.tasks.task import families
from gato_agent.evaluation.aggregate import (
    ALL,
    GROUPS,
    OTHER,
    by_family,
    by_group,
    compare,
    of_states,
    shared,
    shared_note,
)
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.task_score import Outcome, score


def results(**returns: list[float]) -> Results:
    """Returns by task; an underscore in a name stands for a dash."""
    tasks = {name.replace("_", "-"): totals for name, totals in returns.items()}
    made = {
        task: score(task, [Outcome(seed, total, 1, None) for seed, total in enumerate(totals)])
        for task, totals in tasks.items()
    }
    return Results("someone", None, None, {}, {}, made)


def test_every_family_of_the_catalogue_is_in_one_group() -> None:
    assert sorted(suite for suites in GROUPS.values() for suite in suites) == sorted([*families(), OTHER])


def test_a_task_that_was_not_evaluated_is_counted_and_not_as_nought() -> None:
    summaries = results(CartPole_v1=[500.0, 500.0], Unknown_v0=[3.0, 4.0])
    summaries.failed = {"Acrobot-v1": "it broke"}
    summaries.not_evaluated = {"Taxi-v4": "not trained on it", "MinAtar/Freeway-v1": "not installed"}
    groups = by_group(summaries)
    control = groups["classic, Box2D, toy text"]
    assert (control.tasks, control.wanted, control.defined, control.iqm, control.above_half) == (1, 3, 1, 1.0, 1)
    assert (groups["pixels"].tasks, groups["pixels"].wanted, groups["pixels"].iqm) == (0, 1, None)
    assert (groups[OTHER].tasks, groups[OTHER].defined, groups[OTHER].iqm) == (1, 0, None)
    assert (groups[ALL].tasks, groups[ALL].wanted, groups[ALL].iqm) == (2, 5, 1.0)
    assert set(by_family(summaries)) == {"classic", "toytext", "minatar", OTHER}
    assert of_states(groups) == 1.0


def test_comparison_is_of_the_tasks_that_both_have() -> None:
    better = results(CartPole_v1=[400.0, 500.0], Acrobot_v1=[-80.0, -90.0])
    worse = results(CartPole_v1=[100.0, 400.0], LunarLander_v3=[0.0, 1.0])
    summaries = compare(better, worse)
    assert set(summaries) == {"classic, Box2D, toy text", ALL}
    assert (summaries[ALL].tasks, summaries[ALL].probability) == (1, 3.5 / 4)
    assert compare(worse, better)[ALL].probability == 0.5 / 4


def test_evaluations_of_other_tasks_are_reduced_to_those_of_all() -> None:
    first = results(CartPole_v1=[400.0, 500.0], Acrobot_v1=[-80.0, -90.0])
    second = results(CartPole_v1=[100.0, 400.0], LunarLander_v3=[0.0, 1.0])
    second.failed["Taxi-v4"] = "it broke"
    reduced = shared([first, second])
    assert [list(each.tasks) for each in reduced] == [["CartPole-v1"], ["CartPole-v1"]]
    assert by_group(reduced[0])[ALL].tasks == by_group(reduced[1])[ALL].wanted == 1
    assert shared_note([first, second]).startswith("Compared on the 1 task that all evaluations have: of 2 of ")
    assert shared([first, first]) == [first, first] and shared_note([first, first]) == ""
    assert shared([first]) == [first] and shared_note([first]) == ""
    apart = [results(CartPole_v1=[1.0]), results(Acrobot_v1=[-80.0])]
    assert all(each.tasks == {} for each in shared(apart)) and "the 0 tasks" in shared_note(apart)
