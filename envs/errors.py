"""What goes wrong, said in one line that names the thing and the way out."""


class GatoError(Exception):
    """A failure with a message for the user: one line, no traceback needed. Exit code 1."""

    exit_code = 1


class UsageError(GatoError):
    """The command or call itself is wrong (unknown id, missing extra, bad option). Exit code 2."""

    exit_code = 2


class CannotRender(UsageError):
    """A render mode that an environment does not have."""


class SpaceError(GatoError):
    """A space that cannot be tokenised, or a value that does not belong to its space.

    Attributes:
        key: path of the leaf inside the nested space ("" at the root).
        row: index of the offending timestep in the batch that was passed, or None.
    """

    def __init__(self, message: str, key: str = "", row: int | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.row = row


class EnvironmentFault(GatoError):
    """An environment raised, or returned an observation or reward that is not finite."""


def one_line(error: BaseException) -> str:
    """The type and message of an exception, whose message may have many lines or none."""
    return ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())]))


def reason(error: BaseException) -> str:
    """One line for the user on what went wrong: of a GatoError its message, of an OSError the file and why."""
    if isinstance(error, GatoError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    return one_line(error)


def at_least(minimum: float, **options: float | None) -> None:
    """Refuse numbers below `minimum`; None is an option that was not given.

    Raises:
        UsageError: naming the first option that is smaller, or not a number.
    """
    for name, value in options.items():
        if value is not None and not value >= minimum:  # so written, it refuses NaN too
            raise UsageError(f"--{name.replace('_', '-')} {value}: at least {minimum} is needed")
