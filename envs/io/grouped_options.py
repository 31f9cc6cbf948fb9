"""Options of a command in groups: each base of its config is a box of the help, and its options have no prefix."""

import re
from dataclasses import fields, is_dataclass, make_dataclass
from typing import Annotated, Any, TypeVar, cast

Config = TypeVar("Config")


def groups_of(config: type[Any]) -> dict[str, type[Any]]:
    """Groups of a config by title, in the order of its options; none without bases."""
    bases = [cast(type[Any], base) for base in reversed(getattr(config, "__bases__", ())) if is_dataclass(base)]
    return {_title(base): base for base in bases}


def parse_grouped(config: type[Config], **options: Any) -> Config:
    """Read a command line into a config.

    Args:
        config: dataclass; if it has dataclasses as bases, they have all its options.
        options: arguments of `tyro.cli`.

    Raises:
        SystemExit: the options are not those of the config, or --help.
    """
    import tyro  # slow to import

    groups = groups_of(config)
    if not groups:
        return cast(Config, tyro.cli(config, **options))
    boxes = [(title, _box(group, title)) for title, group in groups.items()]
    nested: Any = make_dataclass(config.__name__, boxes, namespace={"__doc__": config.__doc__}, frozen=True)
    parsed: Any = tyro.cli(nested, **options)
    members = [(getattr(parsed, title), fields(group)) for title, group in groups.items()]
    return config(**{each.name: getattr(values, each.name) for values, names in members for each in names})


def _box(group: Any, title: str) -> Any:
    """Type of a group whose options have no prefix and stand below a title."""
    import tyro

    return Annotated[tyro.conf.OmitArgPrefixes[group], tyro.conf.arg(name=title)]  # type: ignore[misc]


def _title(group: type[Any]) -> str:
    """Title of a box: the name of its class in lower case without its last word."""
    *words, _ = re.findall("[A-Z][a-z]*", group.__name__)
    return "_".join(words).lower()
