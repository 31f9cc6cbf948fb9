"""Errors whose message is one line that names the cause and the way out."""

import re


class GatoError(Exception):
    """An error with a one-line message for the user, shown without a traceback. Exit code 1."""

    exit_code = 1

    def __str__(self) -> str:
        """The message in one line, whatever it quotes: the representation of a space or array has several."""
        return re.sub(r"\s*\n\s*", " ", super().__str__())


class UsageError(GatoError):
    """An error of the command or call: unknown id, missing extra, bad option. Exit code 2."""

    exit_code = 2


class CannotRender(UsageError):
    """A render mode that an environment does not have."""


class SpaceError(GatoError):
    """An error of a space that cannot be tokenised, or of a value that is not in its space.

    Attributes:
        key: path of the leaf inside the nested space ("" at the root).
        row: index of the offending timestep in the batch that was passed, or None.
        remedy: instruction that makes the value valid, such as "clip it", or "".
        in_no_space: True if no other space would contain the value: one that is not finite, or unreadable.
    """

    def __init__(
        self, message: str, key: str = "", row: int | None = None, remedy: str = "", in_no_space: bool = False
    ) -> None:
        super().__init__(message)
        self.key = key
        self.row = row
        self.remedy = remedy
        self.in_no_space = in_no_space


class EnvironmentFault(GatoError):
    """An exception of an environment, or an invalid observation, reward, flag or info."""


def one_line(error: BaseException) -> str:
    """Type and message of an exception in one line; the type alone if its message cannot be made."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  # from the `__str__` of another package's exception
        message = ""
    return ": ".join(filter(None, [type(error).__name__, message]))


def reason(error: BaseException) -> str:
    """One line for the user: the message of a GatoError, the file and cause of an OSError, else type and message."""
    if isinstance(error, GatoError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    return one_line(error)


def at_least(minimum: float, **options: float | None) -> None:
    """Refuse options below `minimum`; None stands for an option that is not set.

    Raises:
        UsageError: an option is smaller, or NaN; the message names the first.
    """
    for name, value in options.items():
        if value is not None and not value >= minimum:  # `not >=` refuses NaN too
            raise UsageError(f"--{name.replace('_', '-')} {value}: at least {minimum} is needed")


def at_most(maximum: float, **options: float | None) -> None:
    """Refuse options above `maximum`; None stands for an option that is not set.

    Raises:
        UsageError: an option is larger; the message names the first.
    """
    for name, value in options.items():
        if value is not None and value > maximum:
            raise UsageError(f"--{name.replace('_', '-')} {value}: at most {maximum:,} is possible")
