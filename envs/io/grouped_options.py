"""Options of a command in groups: each base of its config is a box of the help, and its options have no prefix.

A field of the config itself is a group whose options have the field's name as prefix.
"""

import re
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, TypeVar, cast

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
        SystemExit: the options are not those of the config, or --help.
    """
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
