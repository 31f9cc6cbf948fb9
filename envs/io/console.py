"""Consoles that print text as it is."""

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A console without markup: brackets and colons in paths, ids and messages are no styles and no emoji.

    Args:
        options: of rich's Console.
    """
    return Console(markup=False, emoji=False, **options)
