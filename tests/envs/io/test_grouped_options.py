"""Groups of options are boxes of the help, and the options of a flat config."""

from dataclasses import dataclass, field

import pytest

from gato_agent.commands.collect import CollectConfig
from gato_agent.commands.evaluate import EvaluateConfig
from gato_agent.commands.play import PlayConfig
from gato_agent.commands.serve import ServeConfig
from gato_agent.commands.train import TrainConfig
from gato_agent.envs.io.grouped_options import groups_of, parse_grouped
from gato_agent.improving.config import ImproveConfig


@dataclass(frozen=True)
class FirstOptions:
    """First things."""

    number: int
    """A number."""


@dataclass(frozen=True)
class SecondThingsOptions:
    """Second things."""

    words: tuple[str, ...] = ()
    """Some words."""


@dataclass(frozen=True)
class BothConfig(SecondThingsOptions, FirstOptions):
    """Do both."""


@dataclass(frozen=True)
class PlainConfig:
    """Do one thing."""

    number: int = 3


def test_options_have_no_prefix() -> None:
    assert parse_grouped(BothConfig, args=["--number", "2", "--words", "a", "b"]) == BothConfig(2, ("a", "b"))
    assert parse_grouped(PlainConfig, args=["--number", "2"]) == PlainConfig(2)
    assert groups_of(PlainConfig) == {} == groups_of(int | str)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Inner:
    """Inner things."""

    depth: int = 1


@dataclass(frozen=True)
class WithFieldConfig(BothConfig):
    """Do both, and more."""

    inner: Inner = field(default_factory=Inner)


def test_own_fields_are_groups_with_a_prefix_and_defaults_are_kept() -> None:
    assert groups_of(WithFieldConfig) == groups_of(BothConfig)
    default = WithFieldConfig(5, ("x",), Inner(7))
    assert parse_grouped(WithFieldConfig, default, args=[]) == default
    arguments = ["--number", "2", "--inner.depth", "3"]
    assert parse_grouped(WithFieldConfig, default, args=arguments) == WithFieldConfig(2, ("x",), Inner(3))
    assert parse_grouped(WithFieldConfig, args=["--number", "2"]) == WithFieldConfig(2)
    assert parse_grouped(PlainConfig, PlainConfig(4), args=[]) == PlainConfig(4)


def test_help_shows_a_box_for_each_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_grouped(BothConfig, args=["--help"])
    shown = capsys.readouterr().out
    places = [shown.index(text) for text in ("Do both", "first options", "A number", "second-things", "Some words")]
    assert places == sorted(places)


@pytest.mark.parametrize("config", [CollectConfig, TrainConfig, ImproveConfig, PlayConfig, EvaluateConfig, ServeConfig])
def test_no_box_has_more_than_ten_options(config: type) -> None:
    assert 0 < max(len(group.__dataclass_fields__) for group in groups_of(config).values()) <= 10


@pytest.mark.parametrize("config", [PlayConfig, EvaluateConfig])
def test_verbs_that_play_share_their_groups(config: type) -> None:
    groups = groups_of(config)
    assert {"actor", "decoding", "output"} < groups.keys()
    assert groups["decoding"] is groups_of(PlayConfig)["decoding"]
