"""Options of training: learning-rate schedules, fine-tuning defaults and the mixture."""

import dataclasses
from pathlib import Path

import pytest

from gato_agent.commands.train import TrainConfig, defaults, fine_tuning
from gato_agent.dataset.load import mixture
from gato_agent.envs.errors import UsageError
from gato_agent.model.config import GatoConfig
from gato_agent.training import run_folder


def test_schedule() -> None:
    config = TrainConfig(size="nano", steps=1000, warmup=100, learning_rate=1.0)
    assert config.rate(0) == pytest.approx(0.01)
    assert config.rate(99) == pytest.approx(1.0)
    assert config.rate(100) == pytest.approx(1.0)
    assert config.rate(550) == pytest.approx(0.55)
    assert config.rate(1000) == pytest.approx(0.1)


def test_a_constant_rate_decays_in_the_end() -> None:
    config = TrainConfig(size="nano", steps=1000, warmup=100, learning_rate=1.0, schedule="wsd", decay_steps=200)
    assert [config.rate(step) for step in (0, 99, 500, 800, 900, 999)] == pytest.approx([0.01, 1, 1, 1, 0.5, 0.005])
    constant = dataclasses.replace(config, decay_steps=0)
    assert constant.rate(999) == 1.0
    config.check_past({"steps": 800, "decay_steps": 0}, 800)  # a longer one goes on where a constant one ended
    for before, step in (({"steps": 900, "decay_steps": 200}, 800), ({"steps": 500, "decay_steps": 100}, 450)):
        with pytest.raises(UsageError, match=r"changes the learning rates of its first \d+ steps"):
            config.check_past(before, step)
    with pytest.raises(UsageError, match="--decay-steps 200: for --schedule wsd"):
        TrainConfig(decay_steps=200).check()
    with pytest.raises(UsageError, match="--holdout"):
        TrainConfig(holdout=0.9).check()


def test_fine_tuning_has_defaults_of_its_own() -> None:
    own = fine_tuning("shipped", batch_size=2)
    assert (own.size, own.init, own.batch_size, own.steps) == ("tiny", "shipped", 2, 200)
    assert own.rate(0) == own.rate(own.steps - 1) == 6e-4
    paper = TrainConfig.fine_tuning("large", "there")
    assert paper.rate(0) == paper.rate(paper.steps - 1) == 1e-5
    assert (paper.batch_size, paper.steps, paper.weight_decay, paper.dropout) == (64, 10_000, 0.0, 0.1)
    assert defaults(["--init=shipped", "--steps", "3"]) == defaults(["--init", "shipped"])
    assert defaults(["--init", "shipped"]).config() == fine_tuning("shipped")
    assert defaults(["--data", "--init"]) == defaults([])
    assert defaults([]).config() == TrainConfig()
    other = dataclasses.replace(GatoConfig.tiny(), context=96, layers=2)
    assert other.described() == ("tiny", '{"layers": 2, "context": 96}')
    assert GatoConfig.named("tiny").reshaped(other.described()[1]) == other
    with pytest.raises(UsageError, match="no checkpoint at nowhere"):
        defaults(["--init", "nowhere"])


def test_the_mixture_is_checked() -> None:
    assert mixture('{"b": 3}', ["a", "b"]) == [1.0, 3.0]
    assert mixture('{"classic": 2, "CartPole-v1": 5}', ["CartPole-v1", "Acrobot-v1", "a"]) == [5.0, 2.0, 1.0]
    for wrong in ('{"c": 1}', '{"a": 0}', '{"a": -1}', '{"a": "x"}', "[1]", "x", '{"a": NaN}'):
        with pytest.raises(UsageError, match=r"--mixture"):
            mixture(wrong, ["a", "b"])


def test_the_correction_begins_faster_and_ends_slower() -> None:
    config = TrainConfig(steps=100, warmup=10, learning_rate=2e-3)
    assert config.correction_rate(9) == pytest.approx(3 * config.rate(9)) == pytest.approx(6e-3)
    assert config.correction_rate(99) < 0.5 * config.rate(99)


@pytest.mark.parametrize("ema", [None, 0.99])
def test_a_run_of_a_removed_option_is_not_resumed_as_if_without_it(ema: float | None, tmp_path: Path) -> None:
    run_folder.write(tmp_path, {"steps": 3, "ema": ema})
    if ema is None:
        assert run_folder.prepare(tmp_path, {"steps": 3}, resume=True)["steps"] == 3
    else:
        with pytest.raises(UsageError, match=r"it was made with --ema, which this version has not$"):
            run_folder.prepare(tmp_path, {"steps": 3}, resume=True)
