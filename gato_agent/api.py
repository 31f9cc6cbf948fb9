"""Verbs of the command line as functions, with their options as keyword arguments.

    gato_agent.collect(env=("CartPole-v1",), episodes=200, noise=True, out=Path("data"))
    gato_agent.train(data=(Path("data"),), out=Path("runs/cartpole"))
    results = gato_agent.evaluate(checkpoint="runs/cartpole", env=("CartPole-v1",), episodes=50)

Options have the names, types and defaults of the verb's dataclass, which documents them. One value may stand for a
tuple of one, a string for a path, and a mapping for JSON. An environment that a script registers itself is known to
worker processes if the script calls the verbs below `if __name__ == "__main__":`.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from functools import update_wrapper
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from gato_agent.commands import collect as _collect
from gato_agent.commands import evaluate as _evaluate
from gato_agent.commands import play as _play
from gato_agent.commands import train as _train
from gato_agent.envs.errors import UsageError
from gato_agent.improving import improve as _improve
from gato_agent.training.config import TrainConfig

__all__ = ["collect", "evaluate", "improve", "play", "train"]

Options = ParamSpec("Options")
Config = TypeVar("Config")
Result = TypeVar("Result")


def _verb(
    name: str, config: Callable[Options, Config], run: Callable[[Config], Result],
    make: Callable[..., Config] | None = None,
) -> Callable[Options, Result]:  # fmt: skip
    """Build the function that takes a config's fields as keyword arguments; `make` builds the config of them."""
    build: Callable[..., Config] = make or config

    def verb(*args: Options.args, **kwargs: Options.kwargs) -> Result:
        if args:
            raise TypeError(f"{name}() takes keyword arguments only, such as {name}({_names(config)[0]}=...)")
        with _script_left_alone():
            return run(build(**_converted(config, kwargs, name)))

    update_wrapper(verb, run, assigned=("__doc__",), updated=())
    verb.__name__ = verb.__qualname__ = name
    parameters = inspect.signature(config).parameters.values()
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    verb.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return verb


@contextmanager
def _script_left_alone() -> Iterator[None]:
    """Keep worker processes from running the user's script, unless it has `if __name__ == "__main__":`.

    Processes that are spawned import the script that started them, which would call the verb again.
    """
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), main.__spec__
    if (
        file is None
        or not Path(file).is_file()
        or re.search(r"__name__\s*==", Path(file).read_text("utf-8", "replace"))
    ):
        yield
        return
    main.__file__ = main.__spec__ = None
    try:
        yield
    finally:
        main.__file__, main.__spec__ = file, spec


def _names(config: Callable[..., Any]) -> list[str]:
    return [field.name for field in fields(config)]  # type: ignore[arg-type] # each is a dataclass


def _converted(config: Callable[..., Any], options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Options in the types of the config's fields.

    Raises:
        UsageError: no such option; the message has the nearest. Or a value of another type, such as an object for a
            name.
    """
    types = get_type_hints(config)
    for option in options:
        if option not in types:
            close = get_close_matches(option, types, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(types)}"
            raise UsageError(f"{name}() has no option {option}: {hint}")
    converted = {option: _cast(types[option], value) for option, value in options.items()}
    for option, value in converted.items():
        if not _is_a(types[option], value):
            wanted = re.sub(r"[\w.]+\.(?=\w)|<class '|'>", "", str(types[option]))
            named = ", which names it, such as an id or module:callable" if "str" in wanted else ""
            raise UsageError(f"{name}() takes {option} as {wanted}{named}, and not {options[option]!r:.80}")
    return converted


def _is_a(kind: Any, value: Any) -> bool:
    """True if a value is of a field's type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(inner[0], each) for each in value)
    if origin is Literal:
        return value in inner
    if inner:
        return any(_is_a(each, value) for each in inner)
    if kind is float and type(value) is int:
        return True
    return isinstance(value, kind) and not (kind is int and type(value) is bool)


def _cast(kind: Any, value: Any) -> Any:
    """Value of an option: a tuple of one value, a path of a string, JSON of a mapping, a number of NumPy's."""
    if isinstance(value, np.generic):
        value = value.item()
    if get_origin(kind) is tuple:
        values = value if isinstance(value, (tuple, list)) else [value]
        return tuple(_cast(get_args(kind)[0], each) for each in values)
    if isinstance(value, str) and (kind is Path or Path in get_args(kind)):
        return Path(value)
    if isinstance(value, Path) and (kind is str or str in get_args(kind)):
        return str(value)
    return json.dumps(dict(value), default=_plain) if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    """A number or array of NumPy's as plain Python; raises UsageError for other objects, which are no JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise UsageError(
        f"{value!r:.80} is no JSON: arguments of environments are numbers, strings, lists and dicts of them"
    )


def _train_config(**options: Any) -> TrainConfig:
    """Options of a run; those of fine-tuning have other defaults."""
    return _train.fine_tuning(**options) if options.get("init") else TrainConfig(**options)


collect = _verb("collect", _collect.CollectConfig, _collect.collect)
"""Collect episodes of an expert; see `CollectConfig`."""

evaluate = _verb("evaluate", _evaluate.EvaluateConfig, _evaluate.evaluate)
"""Evaluate a checkpoint or an expert; see `EvaluateConfig`. Returns the results."""

improve = _verb("improve", _improve.ImproveConfig, _improve.improve)
"""Improve an agent by the best of its own episodes; see `ImproveConfig`. Returns the finished rounds."""

play = _verb("play", _play.PlayConfig, _play.play)
"""Play episodes of an agent; see `PlayConfig`. Returns returns and speed."""

train = _verb("train", TrainConfig, _train.train, _train_config)
"""Train or resume a run; see `TrainConfig`. Returns the path of the model file."""
