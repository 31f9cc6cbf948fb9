"""Options of a command in groups: each base of its config is a box of the help, and its options have no prefix.

A field of the config itself is a group whose options have the field's name as prefix.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, cast, get_args, get_type_hints

from gato_agent.envs.io.option_errors import one_line_errors

Config = TypeVar("Config")


def groups_of(config: type[Any]) -> dict[str, type[Any]]:
    """Groups of a config by title, in the order of its options; none without bases."""
    groups: dict[str, type[Any]] = {}
    bases = [cast(type[Any], base) for base in reversed(getattr(config, "__bases__", ())) if is_dataclass(base)]
    for base in bases:
        groups |= groups_of(base) or {_title(base): base}
    return groups


def parse_grouped(config: type[Config], default: Config | None = None, **options: Any) -> Config:
    """Read a command line into a config.

    Args:
        config: dataclass; if it has dataclasses as bases, its own fields are dataclasses too.
        default: values of options that the command line does not have; by default those of the config.
        options: arguments of `tyro.cli`.

    Raises:
        UsageError: the options are not those of the config.
        SystemExit: --help.
    """
    prog, args = options.get("prog") or "", options.get("args")
    words = sys.argv[1:] if args is None else args
    _join_lines(config)
    with one_line_errors(prog, words, [word for word, _ in flags(config)]):
        return _parse(config, default, options)


def flags(config: Any, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """Options of a config, such as `--env` and `--model.context`, with their types; and subcommands, with None."""
    for part in get_args(config):
        yield from flags(part, prefix)
        if isinstance(name := getattr(part, "name", None), str):  # of tyro.conf.subcommand
            yield name, None
    for name, hint in _hints(config).items():
        option = f"{prefix}{name.replace('_', '-')}"
        yield from flags(hint, f"{option}.") if _hints(hint) else [(option, hint)]


def _hints(config: Any) -> dict[str, Any]:
    """Types of the fields of a dataclass by name; none of anything else."""
    return get_type_hints(config) if isinstance(config, type) and is_dataclass(config) else {}


def _join_lines(config: Any) -> None:
    """Give options of a config, of its groups and subcommands texts without line breaks, which tyro would keep."""
    for part in (*get_args(config), *_hints(config).values(), *getattr(config, "__bases__", ())):
        _join_lines(part)
    if not _hints(config):
        return
    try:
        source = inspect.getsource(config)
    except (OSError, TypeError):  # installed without sources, where tyro has no texts either
        return
    body = cast(ast.ClassDef, ast.parse(textwrap.dedent(source)).body[0]).body
    for name, text in pairwise(body):
        match name, text:
            case ast.AnnAssign(target=ast.Name(id)), ast.Expr(ast.Constant(str(words))):
                option = config.__dataclass_fields__[id]
                option.metadata = MappingProxyType({**option.metadata, "help": " ".join(words.split())})


def _parse(config: type[Config], default: Config | None, options: dict[str, Any]) -> Config:
    """Read a command line into a config with the arguments of `tyro.cli`."""
    import tyro  # slow to import

    groups = groups_of(config)
    if default is not None:
        options["default"] = default
    if not groups:
        return cast(Config, tyro.cli(config, **options))
    grouped = {each.name for group in groups.values() for each in fields(group)}
    own = [each for each in fields(cast(Any, config)) if each.name not in grouped]
    boxes = [(title, _box(group, title)) for title, group in groups.items()]
    prefixed = [(each.name, each.type, field(default_factory=cast(Any, each.type))) for each in own]
    nested: Any = make_dataclass(
        config.__name__, [*boxes, *prefixed], namespace={"__doc__": config.__doc__}, frozen=True
    )  # fmt: skip
    if default is not None:
        values = {title: group(**_values(default, group)) for title, group in groups.items()}
        options["default"] = nested(**values, **{each.name: getattr(default, each.name) for each in own})
    parsed: Any = tyro.cli(nested, **options)
    flat = {each.name: getattr(parsed, each.name) for each in own}
    for title, group in groups.items():
        flat |= _values(getattr(parsed, title), group)
    return config(**flat)


def _values(config: Any, group: type[Any]) -> dict[str, Any]:
    """Values of the options of a group in a config."""
    return {each.name: getattr(config, each.name) for each in fields(group)}


def _box(group: Any, title: str) -> Any:
    """Type of a group whose options have no prefix and stand below a title."""
    import tyro

    return Annotated[tyro.conf.OmitArgPrefixes[group], tyro.conf.arg(name=title)]  # type: ignore[misc]


def _title(group: type[Any]) -> str:
    """Title of a box: the name of its class in lower case without its last word."""
    *words, _ = re.findall("[A-Z][a-z]*", group.__name__)
    return "_".join(words).lower()
