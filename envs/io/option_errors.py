"""Errors of a command line in one line, in place of tyro's boxes."""

import contextlib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from gato_agent.envs.errors import UsageError

KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "a text"}  # by tyro's name of a type


@contextlib.contextmanager
def one_line_errors(prog: str, args: Sequence[str], options: Sequence[str]) -> Iterator[None]:
    """Raise UsageError where tyro would print a box and exit.

    tyro's only hook is private, so another release may not have it, or its events may differ: tyro then prints its box.

    Args:
        prog: words of the command, such as `gato-agent play`.
        args: words after them.
        options: options of the command, such as `--env`, for suggestions.
    """
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
        return

    def refuse(event: Any) -> None:
        with contextlib.suppress(AttributeError, TypeError):
            if message := _message(event, prog, args, options):
                raise UsageError(message)

    with on_parse_error(refuse):
        yield


def _message(event: Any, prog: str, args: Sequence[str], options: Sequence[str]) -> str | None:
    """Message for an event of tyro; None for other kinds of events."""
    verb, kind = event.prog.removeprefix("gato-agent "), type(event).__name__
    if kind == "MissingArgs":
        return _missing(verb, event, options)
    if kind == "UnrecognizedArgs":
        return _unknown(verb, event.tokens, options)
    if kind == "MissingSubcommand":
        return f"{verb} what? choose one of {', '.join(event.subcommand_spec.parser_from_name)}"
    if kind == "InvalidChoice":
        return f"{event.argument.display_name()} {event.value}: choose one of {', '.join(event.choices)}"
    if kind == "BadValue":
        return f"{event.argument.display_name()} needs a value: see {prog} --help"
    if kind == "InstantiationFailure" and event.argument is not None:
        return _wrong_value(event.argument, event.message, args)
    return None


def _missing(verb: str, event: Any, options: Sequence[str]) -> str:
    """Message for required options that are missing; an unknown option beside them is the likelier cause."""
    if any(token.startswith("--") for token in event.unrecognized_tokens):
        return _unknown(verb, event.unrecognized_tokens, options)
    missing = [each.arg for each in event.missing_arguments]
    names = ["a value" if each.is_positional() else each.display_name() for each in missing]
    if len(names) == len(event.unrecognized_tokens) == 1 and names[0].startswith("-"):
        return f"{verb} {event.unrecognized_tokens[0]}: write {verb} {names[0]} {event.unrecognized_tokens[0]}"
    texts = [" ".join(str(each.field.helptext).split()).removesuffix(".") for each in missing]
    return f"{verb} needs " + "; and ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))


def _unknown(verb: str, tokens: Sequence[str], options: Sequence[str]) -> str:
    """Message for words that are no options of a command, with the option that resembles the first."""
    flags = [token.partition("=")[0] for token in tokens if token.startswith("-")]
    word, kind = (flags[0], "option ") if flags else (" ".join(tokens), "")
    close = get_close_matches(word.split()[0].replace("_", "-"), options, n=1)
    way = f"did you mean {close[0]}?" if close else f"see gato-agent {verb} --help"
    return f"{verb} has no {kind}{word}: {way}"


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
