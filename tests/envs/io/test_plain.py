"""The gate: names that need nothing but what is there pass as they are, and all others are refused with a way out."""

import math
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gato_agent.envs.errors import UsageError
from gato_agent.envs.io import plain
from gato_agent.envs.tasks.task import catalogue

FILE, WAY_OUT = Path("some.json"), "say it yourself"
EVERY = (plain.env_id, plain.expert, plain.checkpoint, plain.path, plain.name)
MODULES = ("m:f", "m:Env-v0", "a.b:c", ":", "a:", ":a")
NETWORK = ("hub:o/n", "hub:o/n/f.zip", "https://h/x", "hf://o/n", "file:///etc/passwd", "s3://b/k")
ELSEWHERE = ("..", "../x", "a/../../x", "/etc/passwd", "/", "~", "~/x", "~root/x", "a/..", "x\0", "x\n", "")
NO_NAMES = (None, 0, 1.5, True, [], ["m:f"], {}, {"a": 1}, b"m:f", "x" * 5000)


@pytest.mark.parametrize("check", EVERY)
@pytest.mark.parametrize("value", [*MODULES, *NETWORK, *ELSEWHERE, *NO_NAMES])
def test_what_a_file_may_not_name_is_refused_with_the_way_out(check: Any, value: Any) -> None:
    if value is None and check is plain.checkpoint:  # the shipped weights
        assert plain.checkpoint(None, FILE, WAY_OUT) is None
        return
    with pytest.raises(UsageError, match=r"^some\.json has .*which no file may name: say it yourself$"):
        check(value, FILE, WAY_OUT)


@given(st.text())
def test_whatever_passes_is_unchanged_and_stays_below_the_current_folder(text: str) -> None:
    for check in EVERY:
        try:
            passed = check(text, FILE, WAY_OUT)
        except UsageError:
            continue
        assert str(passed) == (str(Path(text)) if check is plain.path else text)
        assert ":" not in text
        below = Path("/somewhere") / text
        assert ".." not in below.parts and below.parts[:2] == ("/", "somewhere")
        assert not text.startswith("~") and "\0" not in text


def test_every_id_that_is_registered_or_known_passes() -> None:
    for env_id in [*gym.registry, *catalogue()]:
        assert plain.env_id(env_id, FILE, WAY_OUT) == env_id


@pytest.mark.parametrize("path", ["runs/cartpole", "model.zip", "./a/b c", "é/ü.safetensors", "a.b/c-d_e", "x.."])
def test_relative_paths_pass_as_files_of_experts_and_checkpoints(path: str) -> None:
    assert plain.expert(path, FILE, WAY_OUT) == plain.checkpoint(path, FILE, WAY_OUT) == path
    assert plain.path(path, FILE, WAY_OUT) == Path(path)


def test_experts_that_are_at_hand_pass_and_one_that_would_be_trained_does_not() -> None:
    for kind in ("catalogue", "scripted", "random"):
        assert plain.expert(kind, FILE, WAY_OUT) == kind
    with pytest.raises(UsageError, match="'train', which no file may name"):
        plain.expert("train", FILE, WAY_OUT)


def test_a_name_is_one_of_those_that_can_be() -> None:
    assert plain.name("a.mp4", FILE, WAY_OUT, ["a.mp4"]) == "a.mp4"
    assert plain.name("state-12", FILE, WAY_OUT, re.compile(r"state-\d+")) == "state-12"
    for allowed in (["a.mp4"], re.compile(r"state-\d+")):
        with pytest.raises(UsageError):
            plain.name("b", FILE, WAY_OUT, allowed)


PLAIN = [
    {}, {"frameskip": 4, "repeat_action_probability": 0.25, "obs_type": "rgb"}, {"desc": ["SFFF", "FHFH"]},
    {"map_name": "8x8", "is_slippery": False, "x": None}, {"a": {"b": [1, [2.5, "c d"]]}}, {"gain": "0.5"},
    {"render_mode": "rgb_array"}, {"target": [math.inf, -1]},
]  # fmt: skip
OTHERS = [
    *({"x": text} for text in (*MODULES, *NETWORK, *ELSEWHERE[:-1])), {"m:f": 1}, {"../x": 1}, {"x": ["a", "../b"]},
    {"x": {"y": "m:f"}}, {"x": "os.system"}, {"x": "package.module.Class"}, {"x": "ant.xml"}, {"x": b"a"},
    {"render_mode": "human"}, {"x": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}}},
    {"x": object()}, {"x": "w" * 5000}, [], "{}", None, 3,
]  # fmt: skip


@pytest.mark.parametrize("kwargs", PLAIN)
def test_arguments_of_numbers_and_words_pass(kwargs: dict[str, Any]) -> None:
    assert plain.env_kwargs(kwargs, FILE, WAY_OUT) == kwargs


@pytest.mark.parametrize("kwargs", OTHERS)
def test_arguments_that_may_be_opened_or_imported_are_refused(kwargs: Any) -> None:
    with pytest.raises(UsageError, match=r"has env_kwargs .*which no file may name: say it yourself"):
        plain.env_kwargs(kwargs, FILE, WAY_OUT)
