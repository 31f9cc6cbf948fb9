"""Sizes are rows of one table: a new one is trained, described and listed, and no other file changes."""

import subprocess
import sys
from pathlib import Path

import pytest

from gato_agent.model.config import SIZES, GatoConfig

ROW = """
from gato_agent.model.config import SIZES, GatoConfig, ModelSize
SIZES["pico"] = ModelSize(GatoConfig(2, 2, 64, 128, 128, 300, (32, 64)), 0.002, {"steps": 7})
"""
PROGRAM = """
from gato_agent.cli import main, parse
from gato_agent.training.config import TrainConfig
_, arguments = parse(["train", "--size", "pico", "--data", "data"])
config = arguments.config()
assert (config.size, config.peak_rate) == ("pico", 0.002), config
assert TrainConfig.fine_tuning("pico", "run").steps == 7
assert GatoConfig.named("pico").described() == ("pico", "{}")
for words in (["train", "--help"], ["info", "size", "pico"], ["info", "env", "CartPole-v1"]):
    try:
        main(words)
    except SystemExit as exit:
        assert exit.code == 0, words
"""


def test_a_row_adds_a_size(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ROW + PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0.002 (pico)" in " ".join(done.stdout.replace("│", " ").split())
    assert "gato pico" in done.stdout and "pico  " in done.stdout


@pytest.mark.parametrize("name", SIZES)
def test_a_size_has_a_constructor_of_its_name(name: str) -> None:
    assert getattr(GatoConfig, name)() == SIZES[name].config
