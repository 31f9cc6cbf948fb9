"""The script that measures temperatures writes the best one, of its families alone."""

import runpy
import shutil
from pathlib import Path

import pytest

from gato_agent.checkpoint import Checkpoint, locate
from gato_agent.envs.errors import UsageError
from gato_agent.evaluate import EvaluateConfig, evaluate
from gato_agent.page import page
from gato_agent.report import published

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "temperatures.py"))
Config, main = SCRIPT["Config"], SCRIPT["main"]


def test_the_best_temperature_of_a_family_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(shutil.copy(locate(None), tmp_path / "model.safetensors"))
    before = Checkpoint.load(file)
    config = Config(tmp_path, ("toytext",), tried=(0.1, 50.0), episodes=2, workers=0)
    for _ in range(2):  # the second time nothing is played
        main(config)
        assert '{"toytext": 0.1}' in capsys.readouterr().out  # at 50 actions are random
    after = Checkpoint.load(file)
    assert set(after.temperatures()) >= {"FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"}
    assert {after.tasks["Taxi-v4"].temperature, after.tasks["CartPole-v1"].temperature} == {0.1, 0.0}
    assert after.sha256() == before.sha256()
    results = evaluate(EvaluateConfig(env=("Taxi-v4",), checkpoint=str(file), episodes=1, workers=0))
    assert results.settings["temperature"]["Taxi-v4"] == 0.1
    assert "temperature 0.1 in 1 task" in page([results], [("it", [])], {}, published())
    with pytest.raises(UsageError, match="--suite toys: there are"):
        main(Config(tmp_path, ("toys",)))
