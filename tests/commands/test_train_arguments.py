"""Command line of `train`: groups of options in the help, fields of the model, mixture weights, former spellings."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from gato_agent.cli import main, parse
from gato_agent.commands.model_fields import ModelFields, expand_json
from gato_agent.commands.train import fine_tuning, train
from gato_agent.commands.train_arguments import TrainArguments
from gato_agent.envs.errors import UsageError
from gato_agent.envs.io.grouped_options import parse_grouped
from gato_agent.model.config import GatoConfig
from gato_agent.training.config import TrainConfig

GROUPS = {"data", "network", "optimization", "evaluation", "run", "model"}
LARGEST = 10  # options in a group


def parsed(line: list[str], default: TrainConfig | None = None) -> TrainConfig:
    default = TrainArguments.of(default or TrainConfig())
    return parse_grouped(TrainArguments, default, args=expand_json(line)[0]).config()


def test_help_shows_options_in_small_groups() -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        main(["train", "--help"])
    boxes = re.split(r"^ ?([\w ]*?) ?options *$", shown.getvalue(), flags=re.MULTILINE)[1:]
    texts = dict(zip(boxes[::2], boxes[1::2], strict=True))
    sizes = {name: len(re.findall(r"^ +--[a-z]", text, re.MULTILINE)) for name, text in texts.items() if name}
    assert sizes.keys() == GROUPS
    assert max(size for name, size in sizes.items() if name != "model") <= LARGEST
    assert sizes["model"] == len(GatoConfig.__dataclass_fields__)


def test_groups_keep_every_option() -> None:
    for config in (TrainConfig(), fine_tuning("shipped", seed=3, eval_env=("A-v0",))):
        assert TrainArguments.of(config).config() == config
        assert parsed([], config) == config


def test_fields_of_the_model_are_options() -> None:
    assert ModelFields.__dataclass_fields__.keys() == GatoConfig.__dataclass_fields__.keys()
    line = ["--model.context", "96", "--model.action-decoder", "False", "--model.patch-channels", "32", "64"]
    fields = {"context": 96, "action_decoder": False, "patch_channels": [32, 64]}
    assert json.loads(parsed(line).shape) == fields
    assert parsed(line).shape == parsed(["--shape", json.dumps(fields)]).shape
    assert parsed([f"--shape={json.dumps(fields)}"]).shape == parsed(line).shape
    given = TrainConfig(shape='{"layers": 2, "context": 64}')
    assert json.loads(parsed(["--model.context", "96"], given).shape) == {"layers": 2, "context": 96}
    assert GatoConfig.nano().reshaped(parsed(line).shape).patch_channels == (32, 64)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["babyai=.5", "mujoco=1"], '{"babyai": 0.5, "mujoco": 1}'),
        (["ALE/Pong-v5=2"], '{"ALE/Pong-v5": 2}'),
        (["a=b=3"], '{"a=b": 3}'),
        (['{"babyai": 0.5}'], '{"babyai": 0.5}'),
        ([], "{}"),
    ],
)
def test_mixture_weights_are_words(words: list[str], text: str) -> None:
    assert parsed(["--mixture", *words]).mixture == text


@pytest.mark.parametrize("word", ["babyai", "babyai=", "=3", "babyai=x"])
def test_a_word_without_a_weight_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"write NAME=WEIGHT"):
        parsed(["--mixture", word])


def test_former_json_is_read_with_a_hint() -> None:
    words, hints = expand_json(["--shape", '{"context": 96}', "--mixture", '{"a": 1}', "--steps", "3"])
    assert words == ["--model.context", "96", "--mixture", '{"a": 1}', "--steps", "3"]
    assert [hint.split()[0] for hint in hints] == ["--shape", "--mixture"]
    assert expand_json(["--mixture", "a=1"]) == (["--mixture", "a=1"], [])
    for wrong in (["--shape"], ["--shape", "x"], ["--shape", "[1]"], ["--shape=3"]):
        with pytest.raises(UsageError, match=r"write --model\.context 512"):
            expand_json(wrong)


def test_defaults_that_init_changes_are_printed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(fine_tuning("shipped", data=(data,), out=tmp_path, steps=1, batch_size=1, num_threads=1, device="cpu"))
    line = next(line for line in capsys.readouterr().out.splitlines() if "defaults of --init" in line)
    assert line == "defaults of --init shipped: --size tiny --warmup 0 --schedule wsd --weight-decay 0.0"


def test_former_names_of_fields_are_read() -> None:
    words, hints = expand_json(["--shape", '{"pack": 32, "context": 64}'])
    assert words == ["--model.values-per-token", "32", "--model.context", "64"]
    assert len(hints) == 1
    assert GatoConfig.nano().reshaped('{"pack": 32}').values_per_token == 32


def test_former_options_are_read_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    _, arguments = parse(["train", "--weights", "bfloat16", "--smooth-bins", "2"])
    assert (arguments.config().save_dtype, arguments.config().bin_label_smoothing) == ("bfloat16", 2.0)
    hints = capsys.readouterr().err
    assert "--weights is called --save-dtype" in hints and "--smooth-bins is called" in hints
