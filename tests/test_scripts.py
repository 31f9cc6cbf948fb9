"""The scripts: temperatures that are measured, and shares of tokens by what tasks lack."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from gato_agent.checkpoints.checkpoint import Checkpoint, locate, read, to_bytes
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.train import TrainConfig, train
from gato_agent.envs.errors import UsageError
from gato_agent.evaluation.report.comparison import published
from gato_agent.evaluation.report.html_page import page
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.task_score import Outcome, score
from tests.helpers.paths import ROOT

SCRIPTS = ROOT / "scripts"
SCRIPT = runpy.run_path(str(SCRIPTS / "temperatures.py"))
Config, main = SCRIPT["Config"], SCRIPT["main"]


def test_the_best_temperature_of_each_task_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(shutil.copy(locate(None), tmp_path / "model.safetensors"))
    before = Checkpoint.load(file)
    config = Config(tmp_path, ("toytext",), tried=(0.1, 50.0), episodes=2, workers=0)
    for _ in range(2):  # the second time nothing is played
        main(config)
        assert '"Taxi-v4": 0.1' in capsys.readouterr().out  # at 50 actions are random
    after = Checkpoint.load(file)
    assert set(after.temperatures()) >= {"FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"}
    assert {after.tasks["Taxi-v4"].temperature, after.tasks["CartPole-v1"].temperature} == {0.1, 0.0}
    assert after.sha256() == before.sha256()
    results = evaluate(EvaluateConfig(env=("Taxi-v4",), checkpoint=str(file), episodes=1, workers=0))
    assert results.settings["temperature"]["Taxi-v4"] == 0.1
    assert "temperature 0.1 in 1 task" in page([results], [("it", [])], {}, published())
    with pytest.raises(UsageError, match="--suite toys: there are"):
        main(Config(tmp_path, ("toys",)))
    with pytest.raises(UsageError, match="--tried 0"):
        main(Config(tmp_path, ("toytext",), tried=()))


def test_a_tasks_own_scores_and_its_familys_choose_together() -> None:
    scores = [{"a": 0.5, "b": 0.5, "c": 0.9}, {"a": 0.6, "b": 0.6, "c": 0.6}, {"a": 0.1, "b": 0.7, "c": 0.8}]
    assert SCRIPT["chosen"](scores, (0.0, 0.5, 1.0)) == {"a": 0.5, "b": 1.0, "c": 0.0}


def test_tasks_that_lack_more_get_more_and_families_their_share(tmp_path: Path) -> None:
    by_need = runpy.run_path(str(SCRIPTS / "by_need.py"))["by_need"]
    results = Results("it", None, None, {})
    for task, mean in (("CartPole-v1", 500.0), ("Pendulum-v1", -1300.0), ("Taxi-v4", 8.0)):
        results.tasks[task] = score(task, [Outcome(0, mean, 1, None)])
    results.failed = {"Acrobot-v1": "it broke"}
    weights = by_need(results, {"classic": 0.6, "toytext": 0.001})
    assert sum(weights[task] for task in ("CartPole-v1", "Pendulum-v1", "Acrobot-v1")) == pytest.approx(0.6, abs=1e-3)
    assert weights["CartPole-v1"] * 4 < weights["Pendulum-v1"] == weights["Acrobot-v1"]
    assert weights["Taxi-v4"] == 0.001
    for shares in ({"classic": 1.0}, {"classic": 1.0, "toytext": 1.0, "toys": 1.0}):
        with pytest.raises(UsageError, match="differ: toy"):
            by_need(results, shares)


@pytest.mark.parametrize("shares", ["[1]", "x", '{"classic": 0}', '{"classic": NaN}', '{"classic": "a"}'])
def test_shares_that_are_none_are_refused_in_one_line(shares: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "by_need.py"), str(tmp_path), shares]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("by_need: error: shares") and done.stderr.count("\n") == 1


def test_a_mean_of_weights_lies_between_and_keeps_what_the_later_one_knows(tmp_path: Path) -> None:
    average = runpy.run_path(str(SCRIPTS / "average.py"))
    tensors, about = read(locate(None))
    later = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    about = {**about, "tasks": about["tasks"][:2]}
    (tmp_path / "later.safetensors").write_bytes(to_bytes(later, {k: v for k, v in about.items() if k != "format"}))
    average["main"](average["Config"]("shipped", tmp_path / "later.safetensors", tmp_path / "mean", share=0.25))
    mean, saved = read(tmp_path / "mean" / "model.safetensors")
    assert saved["tasks"] == about["tasks"]
    for name, tensor in tensors.items():
        moved = 0.25 if tensor.is_floating_point() else 0
        assert torch.allclose(mean[name].float(), tensor.float() + moved, atol=2e-2), name


def test_the_picture_of_the_readme_has_tasks_side_by_side(tmp_path: Path) -> None:
    hero = runpy.run_path(str(SCRIPTS / "hero.py"))
    envs = ("CartPole-v1", "BabyAI-GoToLocal-v0")
    assert hero["record"](hero["Config"](tmp_path / "a.gif", envs, seconds=1.0, fps=4, width=100)) == 0
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.width, image.n_frames, image.info["duration"]) == (200, 4, 250)  # type: ignore[attr-defined]


def test_what_a_training_took_and_gave_is_written(tmp_path: Path, data: Path) -> None:
    """From the folders of the script: scores, episodes, steps and hours, and a plot of each family's loss."""
    cost = runpy.run_path(str(SCRIPTS / "generalist_tables.py"))
    config = cost["Config"](tmp_path, tables=tmp_path / "tables", plot=tmp_path / "plot.svg")
    log = tmp_path / "log.tsv"
    for text, problem in ((None, "No such file"), ("", "not enough values"), ("t\ta-dirty\tm\tend\n", "in no commit"),
                          ("t\tabc1234\t2 cores\tnoisy\nt\tabc1234\t2 cores\tevaluate run\n", "no runs")):  # fmt: skip
        if text is not None:
            log.write_text(text)
        with pytest.raises(UsageError, match=problem):
            cost["main"](config)
    (tmp_path / "data").symlink_to(data)
    train(
        TrainConfig(data=(data,), out=tmp_path / "first", size="nano", shape='{"context": 64}', steps=3, batch_size=2)
    )
    entries = [json.loads(line) for line in (tmp_path / "first" / "log.jsonl").read_text().splitlines()]
    entry = dict(entries[0], tokens_per_second=256 / 3600)  # an hour a step of two segments of 128 tokens
    (tmp_path / "first" / "log.jsonl").write_text("".join(json.dumps(entry | {"step": i}) + "\n" for i in range(4000)))
    results = Results("it", None, None, {})
    for task, mean in (("CartPole-v1", 500.0), ("Pendulum-v1", -1300.0), ("MinAtar/Breakout-v1", 0.5)):
        results.tasks[task] = score(task, [Outcome(0, mean, 1, None), Outcome(1, mean, 1, None)])
    results.save(tmp_path / "results" / "results.json")
    cost["main"](config)
    families = json.loads((config.tables / "generalist-families.json").read_text())
    heading, *figures = families["rows"][0]
    assert heading == "classic, Box2D, toy text"
    assert figures == ["2", ".466", ".466", ".466", "-.067", "1", "1", "1", "", ""]
    assert [row[:2] for row in families["rows"][1:]] == [["pixels", "1"], ["all", "3"]]
    tasks = json.loads((config.tables / "generalist-scores.json").read_text())["rows"]
    assert tasks[0] == ["CartPole-v1", "500.0", "500.0 to 500.0", "21.9", "500.0", "", "1.000"]
    assert [row[0] for row in tasks[1:]] == ["Pendulum-v1", "MinAtar/Breakout-v1"]
    table = json.loads((config.tables / "generalist-cost.json").read_text())
    assert (table["commit"], table["machine"]) == ("abc1234", "2 cores")
    episodes, training = table["rows"]
    assert episodes[:2] == ["data", "4 episodes of 1 task"]
    assert training == ["first", "training of nano, 1.0 million tokens", "4,000", "4000.0"]
    assert "classic" in config.plot.read_text()


@pytest.mark.slow
def test_the_quick_generalist_is_made_from_nothing(tmp_path: Path) -> None:
    """`scripts/generalist.sh --quick`: data, two trainings, evaluation and report."""
    script = ROOT / "scripts" / "generalist.sh"
    subprocess.run(["bash", script, "--quick", tmp_path], check=True, cwd=ROOT, stdin=subprocess.DEVNULL)
    scores = [task.normalized for task in Results.load(tmp_path / "results").scores()]
    assert len(scores) == 10
    assert sum(score is not None and score > 0.5 for score in scores) >= 8
    assert (tmp_path / "report" / "index.html").exists()
    phases = [line.split("\t")[3] for line in (tmp_path / "log.tsv").read_text().splitlines()]
    assert phases == ["noisy", "first", "met", "run", "evaluate", "end"]
