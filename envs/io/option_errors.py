"""Errors of a command line in one line, in place of tyro's boxes."""

import contextlib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from gato_agent.envs.errors import UsageError

KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "a text"}  # by tyro's name of a type


@contextlib.contextmanager
def one_line_errors(prog: str, args: Sequence[str], options: Sequence[str]) -> Iterator[None]:
    """Raise UsageError where tyro would print a box and exit; releases of tyro without hooks print their box.

    Args:
        prog: words of the command, such as `gato-agent play`.
        args: words after them.
        options: options of the command, such as `--env`, for suggestions.
    """
    try:
        from tyro import _errors as events
    except ImportError:
        yield
        return

    def refuse(event: Any) -> None:
        verb = event.prog.removeprefix("gato-agent ")
        if isinstance(event, events.MissingArgs):
            raise UsageError(_missing(verb, event, options))
        if isinstance(event, events.UnrecognizedArgs):
            _refuse_unknown(verb, event.tokens, options)
        if isinstance(event, events.MissingSubcommand):
            raise UsageError(f"{verb} what? choose one of {', '.join(event.subcommand_spec.parser_from_name)}")
        if isinstance(event, events.InvalidChoice):
            name = event.argument.display_name()
            raise UsageError(f"{name} {event.value}: choose one of {', '.join(event.choices)}")
        if isinstance(event, events.BadValue):
            raise UsageError(f"{event.argument.display_name()} needs a value: see {prog} --help")
        if isinstance(event, events.InstantiationFailure) and event.argument is not None:
            raise UsageError(_wrong_value(event.argument, event.message, args))

    with events.on_parse_error(refuse):
        yield


def _missing(verb: str, event: Any, options: Sequence[str]) -> str:
    """Message for required options that are missing; an unknown option beside them is the likelier cause."""
    if any(token.startswith("--") for token in event.unrecognized_tokens):
        _refuse_unknown(verb, event.unrecognized_tokens, options)
    missing = [each.arg for each in event.missing_arguments]
    names = ["a value" if each.is_positional() else each.display_name() for each in missing]
    if len(names) == len(event.unrecognized_tokens) == 1 and names[0].startswith("-"):
        return f"{verb} {event.unrecognized_tokens[0]}: write {verb} {names[0]} {event.unrecognized_tokens[0]}"
    texts = [" ".join(str(each.field.helptext).split()).removesuffix(".") for each in missing]
    return f"{verb} needs " + "; and ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))


def _refuse_unknown(verb: str, tokens: Sequence[str], options: Sequence[str]) -> NoReturn:
    """Raise UsageError for words that are no options of a command, with the option that resembles the first."""
    flags = [token.partition("=")[0] for token in tokens if token.startswith("-")]
    word, kind = (flags[0], "option ") if flags else (" ".join(tokens), "")
    close = get_close_matches(word.split()[0].replace("_", "-"), options, n=1)
    way = f"did you mean {close[0]}?" if close else f"see gato-agent {verb} --help"
    raise UsageError(f"{verb} has no {kind}{word}: {way}")


def _wrong_value(argument: Any, message: str, args: Sequence[str]) -> str:
    """Message for a value of another type than an option's."""
    name, metavar = argument.display_name(), argument.lowered.metavar or ""
    kinds = [kind for word, kind in KINDS.items() if word in metavar]
    flags = [word.partition("=")[0] for word in args]
    if name not in flags or len(kinds) != 1:
        return f"{name}: {' '.join(message.split())}"
    at = flags.index(name)
    value = args[at].partition("=")[2] or " ".join(args[at + 1 : at + 2])
    return f"{name} {value}: {kinds[0]} is needed"
