"""Loggers of training metrics: log.jsonl always, and optionally TensorBoard, Weights & Biases or trackio."""

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
    """Interface of a logger."""

    def log(self, entry: Mapping[str, Any]) -> None:
        """Log the metrics of step `entry["step"]`; a value is a number or a mapping of numbers."""

    def close(self) -> None:
        """Flush and close."""


class Loggers:
    """All loggers of a run, as a context that closes them.

    Args:
        extras: beside log.jsonl.
        folder: of the run.
        settings: config fingerprint, logged beside the metrics.
        step: that the run resumes from; entries of later steps are dropped.

    Raises:
        UsageError: a package is missing, or is not logged in.
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
        """Log to all; an extra logger that fails is dropped with a warning."""
        self._log.log(entry)
        for name, logger in list(self._extras.items()):
            self._try(name, logger.log, entry)

    def _try(self, name: str, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001  # third-party code, and perhaps a network
            self._extras.pop(name, None)
            _log.warning("--logger %s is given up, and training goes on: %s", name, one_line(error))

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class TensorBoard:
    """Logger of TensorBoard event files in FOLDER/tensorboard."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        module: Any = package("tensorboard")
        self._writer = module.SummaryWriter(str(below(folder, "tensorboard")), purge_step=step + 1)
        self._writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add one point to each curve."""
        for name, value in numbers(entry):
            self._writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class Tracker:
    """Logger to Weights & Biases, or to trackio, which has the same interface.

    A resumed run keeps its id; the steps that it repeats are logged again.
    """

    def __init__(self, name: Literal["wandb", "trackio"], folder: Path, settings: Mapping[str, Any]) -> None:
        self._module: Any = package(name)
        self._axis = name == "trackio"  # its step may decrease when a run resumes; in W&B the step is a metric
        below(folder, name)  # W&B's folder
        run = run_id(folder)
        arguments: dict[str, Any] = {"project": PROJECT, "config": dict(settings), "resume": "allow"}
        own = {"id": run, "name": folder.name, "dir": str(folder)} if name == "wandb" else {"name": run}
        try:
            self._run = self._module.init(**arguments, **own)
        except getattr(self._module, "Error", ValueError) as error:
            raise UsageError(f"--logger {name}: {one_line(error)}; log in, or set WANDB_MODE=offline") from error
        if name == "wandb":
            self._run.define_metric("*", step_metric="step")

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add one point to each curve."""
        curves, step = dict(numbers(entry)), entry["step"]
        self._module.log(curves, step=step) if self._axis else self._module.log({**curves, "step": step})

    def close(self) -> None:
        """Upload pending metrics and finish the run."""
        self._module.finish()


def package(name: Extra) -> Any:
    """Import the package of a logger; raises UsageError with the command that installs it."""
    return import_named("torch.utils.tensorboard" if name == "tensorboard" else name, f"--logger {name}")


def run_id(folder: Path) -> str:
    """Unique id of a run, kept in the file run-id of its folder."""
    path = folder / "run-id"
    if not path.exists():
        write_files({path: f"{folder.resolve().name}-{uuid.uuid4().hex[:8]}".encode()})
    text = read_own(path).decode(errors="replace")
    return plain.name(text, path, "delete it, and the run is logged under a new one")


def numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Curves of an entry by name: `{"family_loss": {"mujoco": 1.0}}` has the curve family_loss/mujoco."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", number) for key, number in numbers(value))
        elif isinstance(value, int | float) and name != "step":
            yield name, value
