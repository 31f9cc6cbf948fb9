"""The verb `completion`: Tab completion of verbs, options and choices in a shell."""

import contextlib
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, Union

import tyro

from gato_agent.cli import VERBS
from gato_agent.envs.io.grouped_options import parse_grouped


@dataclass(frozen=True)
class CompletionConfig:
    """Print the Tab completion of a shell, for a file that the shell sources when it starts."""

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Shell that completes: bash or zsh."""


@dataclass(frozen=True)
class Help:
    """Second word of a group of one verb, because a Union of one is no Union."""


def completion(config: CompletionConfig) -> None:
    """Print the completion script of a shell."""
    verbs = {name: getattr(import_module(verb.module), verb.arguments) for name, verb in VERBS.items()}
    with contextlib.suppress(SystemExit):  # tyro prints it in place of parsing
        parse_grouped(_commands(verbs), prog="gato-agent", args=["--tyro-print-completion", config.shell])


def _commands(verbs: dict[str, Any]) -> Any:
    """Union of the options of verbs; those of two words are subcommands of the first."""
    groups: dict[str, dict[str, Any]] = {}
    for name, config in verbs.items():
        first, _, second = name.partition(" ")
        groups.setdefault(first, {} if not second else {"--help": Help})[second] = config
    parts = [(name, group.get("") or _commands(group)) for name, group in groups.items()]
    return Union[tuple(Annotated[part, tyro.conf.subcommand(name)] for name, part in parts)]  # noqa: UP007
