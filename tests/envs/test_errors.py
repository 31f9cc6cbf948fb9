"""Numbers given on the command line are checked in one way, and errors take one line."""

import math
import pickle

import numpy as np
import pytest
from gymnasium.spaces import Box

from gato_agent.envs.errors import EnvironmentFault, GatoError, SpaceError, UsageError, at_least, at_most, one_line


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


@pytest.mark.parametrize("kind", [GatoError, UsageError, SpaceError, EnvironmentFault])
def test_a_message_is_one_line_whatever_it_quotes(kind: type[GatoError]) -> None:
    box = Box(-np.arange(6.0).reshape(2, 3), np.ones((2, 3)), dtype=np.float64)
    error = kind(f"Any-v0: an action  is not in\r\n {box}: clip it")
    assert "\n" in repr(box)
    assert "\n" not in str(error)
    assert str(error).startswith("Any-v0: an action  is not in Box([[") and str(error).endswith(": clip it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_at_most_names_the_option_its_value_and_the_maximum() -> None:
    at_most(10, episodes=10, num_threads=None)
    with pytest.raises(UsageError, match=r"^--num-threads 1025: at most 1,024 is possible$"):
        at_most(1024, episodes=1, num_threads=1025)
