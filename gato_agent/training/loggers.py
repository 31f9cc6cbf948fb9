"""Where the figures of a run go: log.jsonl always, and whatever else the user watches them with.

Every logger has the same three calls: it is opened by its class, `log` takes one entry a step, `close` ends it.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol

from gato_agent.envs.errors import UsageError, one_line
from gato_agent.envs.files import below, read_own, write_files
from gato_agent.envs.io import plain
from gato_agent.envs.tasks.packages import import_named
from gato_agent.training.run_folder import Log

Extra = Literal["tensorboard", "wandb", "trackio"]
PROJECT = "gato-agent"

_log = logging.getLogger(__name__)


class Logger(Protocol):
    """Takes the figures of each step."""

    def log(self, entry: Mapping[str, Any]) -> None:
        """One step's figures; `entry["step"]` says which step, and an entry may be a mapping of numbers itself."""

    def close(self) -> None:
        """Write what is left."""


class Loggers:
    """All loggers of a run, as one; closed when its `with` ends.

    Args:
        extras: beside log.jsonl.
        folder: of the run.
        settings: of the run, shown beside its figures.
        step: that the run goes on from; what was logged of later ones is done again.

    Raises:
        UsageError: a package is missing, or does not know where to log to.
    """

    def __init__(self, extras: tuple[Extra, ...], folder: Path, settings: Mapping[str, Any], step: int) -> None:
        self._stack, self._extras = ExitStack(), dict[str, Logger]()
        self._log = Log(folder / "log.jsonl", step)
        self._stack.callback(self._log.close)
        for name in extras:
            made = TensorBoard(folder, settings, step) if name == "tensorboard" else Tracker(name, folder, settings)
            self._extras[name] = made
            self._stack.callback(self._try, name, made.close)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Pass one step's figures to all; an extra one that fails is given up, and training goes on."""
        self._log.log(entry)
        for name, logger in list(self._extras.items()):
            self._try(name, logger.log, entry)

    def _try(self, name: str, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001  # a package of others, and perhaps a network
            self._extras.pop(name, None)
            _log.warning("--logger %s is given up, and training goes on: %s", name, one_line(error))

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class TensorBoard:
    """Event files in FOLDER/tensorboard."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        module: Any = package("tensorboard")
        self._writer = module.SummaryWriter(str(below(folder, "tensorboard")), purge_step=step + 1)
        self._writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def log(self, entry: Mapping[str, Any]) -> None:
        """One point in each curve."""
        for name, value in numbers(entry):
            self._writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Tracker:
    """Weights & Biases, or trackio, which has the same calls.

    A resumed run goes on under its own id. What it does again is logged again.
    """

    def __init__(self, name: Literal["wandb", "trackio"], folder: Path, settings: Mapping[str, Any]) -> None:
        self._module: Any = package(name)
        self._axis = name == "trackio"  # whose own axis may be set back; that of the other is a curve
        below(folder, name)  # where Weights & Biases writes
        run = run_id(folder)
        given: dict[str, Any] = {"project": PROJECT, "config": dict(settings), "resume": "allow"}
        own = {"id": run, "name": folder.name, "dir": str(folder)} if name == "wandb" else {"name": run}
        try:
            self._run = self._module.init(**given, **own)
        except getattr(self._module, "Error", ValueError) as error:
            raise UsageError(f"--logger {name}: {one_line(error)}; log in, or set WANDB_MODE=offline") from error
        if name == "wandb":
            self._run.define_metric("*", step_metric="step")

    def log(self, entry: Mapping[str, Any]) -> None:
        """One point in each curve."""
        curves, step = dict(numbers(entry)), entry["step"]
        self._module.log(curves, step=step) if self._axis else self._module.log({**curves, "step": step})

    def close(self) -> None:
        """Send what is left."""
        self._module.finish()


def package(name: Extra) -> Any:
    """The package of a logger; raises UsageError with the command that installs it."""
    return import_named("torch.utils.tensorboard" if name == "tensorboard" else name, f"--logger {name}")


def run_id(folder: Path) -> str:
    """A name that no other run has, kept in the run's folder."""
    path = folder / "run-id"
    if not path.exists():
        write_files({path: f"{folder.resolve().name}-{uuid.uuid4().hex[:8]}".encode()})
    text = read_own(path).decode(errors="replace")
    return plain.name(text, path, "delete it, and the run is logged under a new one")


def numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The curves of an entry: `{"family_loss": {"mujoco": 1.0}}` is one called family_loss/mujoco."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", number) for key, number in numbers(value))
        elif isinstance(value, int | float) and name != "step":
            yield name, value
