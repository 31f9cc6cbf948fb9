"""Consoles without markup."""

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """Make a console that prints brackets and colons of paths, ids and messages literally.

    Args:
        options: arguments of rich's Console.
    """
    return Console(markup=False, emoji=False, **options)
