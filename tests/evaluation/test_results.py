"""Scores from episodes: returns, success, normalisation, and the files of results."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.make import make_vector
from gato_agent.envs.random_actor import RandomActor
from gato_agent.envs.tasks.task import Task, find
from gato_agent.evaluation import aggregate as summary
from gato_agent.evaluation.report.html_page import page
from gato_agent.evaluation.report.markdown import markdown
from gato_agent.evaluation.results import Results, to_csv
from gato_agent.evaluation.task_score import Outcome, score
from gato_agent.evaluation.worker import play_episodes


def episodes(*totals: float, success: bool | None = None) -> list[Outcome]:
    return [Outcome(seed, total, 7, success) for seed, total in enumerate(totals)]


def test_a_score_is_the_share_of_the_way_from_random_to_expert() -> None:
    task = find("CartPole-v1")
    assert task is not None and task.random is not None and task.expert is not None
    results = score("CartPole-v1", episodes(100.0, 300.0))
    assert (results.mean, results.random, results.expert) == (200.0, task.random.mean, task.expert.mean)
    assert results.normalized == pytest.approx((200 - task.random.mean) / (task.expert.mean - task.random.mean))
    assert results.success is None
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
    results = score(task.id, solved)
    assert results.success == 0.75
    assert (results.random, results.expert) == (task.random.success, task.expert.success)
    assert results.normalized == pytest.approx((0.75 - results.random) / (results.expert - results.random))
    sample = results.sample()
    assert sample is not None
    failed, succeeded = [(each - results.random) / (results.expert - results.random) for each in (0.0, 1.0)]
    assert list(sample) == pytest.approx([succeeded, succeeded, succeeded, failed])
    assert results.normalized_ci95 is not None
    assert failed <= results.normalized_ci95[0] < results.normalized < results.normalized_ci95[1]


def test_success_is_read_where_a_task_knows_it() -> None:
    assert (find("CartPole-v1") or Task("", "")).success is None
    envs = make_vector("CartPole-v1", 2)
    played = list(play_episodes(RandomActor(envs.single_action_space, 0), envs, range(3), "CartPole-v1"))
    assert sorted(each.seed for each in played) == [0, 1, 2]
    assert all(each.success is None and each.total == each.length for each in played)


@pytest.mark.parametrize("task", ["BabyAI-GoToObj-v0"])
def test_success_is_that_of_any_step(task: str) -> None:
    pytest.importorskip("minigrid")
    from gato_agent.rollouts.experts.load import load_expert

    envs = make_vector(task, 1)
    expert = load_expert("catalogue", task, envs.single_observation_space, envs.single_action_space, envs=envs)
    played = list(play_episodes(expert, envs, range(4), task))
    known = find(task)
    assert known is not None
    assert all(each.success is (None if known.success is None else True) for each in played)


def example() -> Results:
    results = Results("some weights", None, "ab" * 32, {"episodes": 2, "seed": 7, "env_kwargs": {}}, {"numpy": "1"})
    results.tasks = {"CartPole-v1": score("CartPole-v1", episodes(100.0, 300.0), seconds=2.0)}
    results.tasks["Unknown-v0"] = score("Unknown-v0", episodes(1.0, -1.0))
    results.failed = {"Taxi-v4": "Taxi-v4: it, broke"}
    results.not_evaluated = {"MinAtar/Freeway-v1": "not installed"}
    return results


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    example().save(tmp_path / "results.json", {"summary": {"more": 1}})
    assert Results.load(tmp_path) == Results.load(tmp_path / "results.json") == example()
    assert json.loads((tmp_path / "results.json").read_text())["summary"] == {"more": 1}


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_file_of_another_kind_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(UsageError, match=r"no results at .*--env CartPole-v1 --out"):
        Results.load(path)
    path.write_text(damage)
    with pytest.raises(GatoError, match=r"results\.json is damaged"):
        Results.load(tmp_path)


def test_a_task_with_fewer_returns_than_episodes_is_not_read(tmp_path: Path) -> None:
    data = example().to_json()
    data["tasks"][0]["returns"] = data["tasks"][0]["returns"][:1]
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(GatoError, match="CartPole-v1 with 2 episodes and 1 returns"):
        Results.load(tmp_path)


def test_the_csv_has_a_row_for_every_task_and_nothing_where_nothing_is_known() -> None:
    rows = {row["task"]: row for row in csv.DictReader(io.StringIO(to_csv(example()).decode()))}
    assert list(rows) == ["CartPole-v1", "Unknown-v0", "Taxi-v4", "MinAtar/Freeway-v1"]
    assert (rows["CartPole-v1"]["mean"], rows["CartPole-v1"]["steps_per_second"]) == ("200.0", "7.0")
    assert (rows["Unknown-v0"]["normalized"], rows["Unknown-v0"]["status"]) == ("", "evaluated")
    assert (rows["Taxi-v4"]["mean"], rows["Taxi-v4"]["status"]) == ("", "failed: Taxi-v4: it, broke")
    assert rows["MinAtar/Freeway-v1"]["family"] == "minatar"


def shuffled(results: Results) -> Results:
    """The same results, as if the tasks had ended in another order."""
    other = Results.from_json(results.to_json())
    for name in ("tasks", "failed", "not_evaluated"):
        setattr(other, name, dict(reversed(getattr(results, name).items())))
    return other


MORE = {"Acrobot-v1": (-90.0, -80.0, -100.5), "Pendulum-v1": (-200.1, -150.7), "Ant-v5": (3.1, 4000.0)}


def test_nothing_depends_on_the_order_in_which_tasks_end(tmp_path: Path) -> None:
    results = example()
    results.tasks |= {name: score(name, episodes(*returns)) for name, returns in MORE.items()}
    results.failed["Blackjack-v1"] = "it broke too"
    other = shuffled(results)
    assert list(results.tasks) != list(other.tasks) and results.tasks == other.tasks
    assert summary.to_json(results) == summary.to_json(other) == summary.to_json(Results.from_json(results.to_json()))
    assert summary.compare(results, other) == summary.compare(other, results)
    assert to_csv(results) == to_csv(other)
    assert markdown(results) == markdown(other)
    assert page([results], [("", [])], {}, {}) == page([other], [("", [])], {}, {})
    for each, name in ((results, "a.json"), (other, "b.json")):
        each.save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_changed_figure_is_noticed_and_files_without_a_digest_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    example().save(path)
    text = path.read_text()
    path.write_text(text.replace("300.0", "301.0", 1))
    with pytest.raises(GatoError, match=r"results\.json is damaged .*it does not match its digest"):
        Results.load(tmp_path)
    data = json.loads(text)
    del data["digest"]
    path.write_text(json.dumps(data))
    assert Results.load(path) == example()


@pytest.mark.parametrize(
    "change",
    [
        {"mean": "200"}, {"mean": None}, {"ci95": [1.0]}, {"ci95": [1.0, 2.0, 3.0]}, {"ci95": "ab"}, {"episodes": -2},
        {"returns": [1.0, None]}, {"lengths": []}, {"lengths": [0, 1]}, {"lengths": [1.5, 2]}, {"episodes": 10**9},
        {"returns": ["a", "b"]}, {"std": -1.0}, {"family": "nonsense"}, {"family": None}, {"successes": [True] * 3},
        {"successes": [2, 3]}, {"normalized_ci95": [0.0]}, {"expert": 1.0}, {"random": None}, {"by_success": 1},
        {"task": 7}, {"steps": "x"}, {"unknown": 1}, {"seconds": -1.0},
    ],
)  # fmt: skip
def test_a_figure_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    data = example().to_json()
    data["tasks"][0] |= change
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(GatoError, match=r"results\.json is damaged"):
        Results.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"actor": 1}, {"checkpoint": 5}, {"sha256": []}, {"settings": []}, {"settings": {"seed": "x"}}, {"format": 2},
        {"settings": {"temperature": "hot"}}, {"failed": {"a": 1}}, {"not_evaluated": None}, {"tasks": {}},
        {"settings": {"temperature": {"a": "b"}}}, {"settings": {"env_kwargs": 1}}, {"versions": {"a": 1}},
        {"tasks": [1]}, {"format": None},
    ],
)  # fmt: skip
def test_a_description_of_other_types_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "results.json").write_text(json.dumps(example().to_json() | change))
    with pytest.raises(GatoError, match=r"results\.json is damaged"):
        Results.load(tmp_path)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"format": 1e999}', b"NaN", b'{"a": 1, "a": 1}', b"\xff"])
def test_json_that_no_reader_should_believe_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(GatoError, match=r"results\.json is damaged"):
        Results.load(tmp_path)


def test_a_return_beyond_a_float_is_named() -> None:
    with pytest.raises(GatoError, match="CartPole-v1: seed 1 has a return of inf: scale its rewards down"):
        score("CartPole-v1", episodes(1.0, float("inf")))
