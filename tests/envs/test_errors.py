"""Numbers given on the command line are checked in one way, and errors take one line."""

import math

import pytest

from gato_agent.envs.errors import UsageError, at_least, one_line


def test_at_least_takes_the_minimum_more_and_what_was_not_given() -> None:
    at_least(1, episodes=1, num_threads=2.5, train_steps=None)


@pytest.mark.parametrize("value", [0, -1, 0.5, math.nan, -math.inf])
def test_at_least_names_the_option_as_typed_and_its_value(value: float) -> None:
    with pytest.raises(UsageError, match=rf"^--num-threads {value}: at least 1 is needed$"):
        at_least(1, episodes=1, num_threads=value)


def test_an_exception_takes_one_line() -> None:
    assert one_line(ValueError("no robot\n  at /dev/robot")) == "ValueError: no robot at /dev/robot"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_an_exception_whose_message_cannot_be_made_has_its_type() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no message")

    assert one_line(Silent()) == "Silent"
