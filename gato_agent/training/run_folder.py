"""Run folder: config.json, which resuming compares, and log.jsonl."""

import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import append, read_named, read_own, write_files
from gato_agent.envs.io.strict_json import checked_digest, with_digest

REMOVED = ("ema",)  # options of version 0.1; a run without them is resumed
RENAMED = {  # of version 0.1
    "shortest_fragment": "min_segment",
    "smooth_bins": "bin_label_smoothing",
    "weights": "save_dtype",
}


def prepare(folder: Path, config: dict[str, Any], *, resume: bool, may_change: Collection[str] = ()) -> dict[str, Any]:
    """Write config.json, or check that a resumed run has the same one.

    Args:
        folder: of the run.
        config: config fingerprint of this command.
        resume: True if the run may exist.
        may_change: keys of `config` that may differ; the caller checks them.

    Returns:
        The config fingerprint that the run began with, or was last resumed with.

    Raises:
        UsageError: the folder holds a run and `resume` is off, or was made with other arguments.
        GatoError: its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        write(folder, config)
        return config
    if not resume:
        raise UsageError(f"{folder} holds a run already: continue it with --resume, or choose another --out")
    try:
        before = {RENAMED.get(key, key): value for key, value in checked_digest(read_named(path)).items()}
        if wrong := [key for key in may_change if type(before.get(key)) is not type(config[key])]:
            raise ValueError(f"it has no {wrong[0]}")
    except (ValueError, TypeError) as error:
        raise GatoError(f"{path} is damaged ({error}): restore it, or train again into another --out") from error
    if removed := [key for key in REMOVED if before.get(key)]:
        raise UsageError(f"cannot resume {folder}: it was made with --{removed[0]}, which this version has not")
    changed = [f"{k} was {before.get(k)} and is {v}" for k, v in config.items() if before.get(k) != v]
    if any(k not in may_change for k, v in config.items() if before.get(k) != v):
        raise UsageError(f"cannot resume {folder} with other arguments: {'; '.join(changed)}; or choose another --out")
    return before


def write(folder: Path, config: dict[str, Any]) -> None:
    """Write a config fingerprint to config.json."""
    write_files({folder / "config.json": with_digest(config, indent=2)})


class Log:
    """Log file of one JSON object a step, cut back to the checkpoint when a run is resumed."""

    def __init__(self, path: Path, step: int) -> None:
        lines = read_own(path).decode(errors="replace").splitlines() if path.exists() else []
        write_files({path: "".join(f"{line}\n" for line in lines[:step]).encode()})
        self._file, self._path = io.TextIOWrapper(append(path)), path

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append and flush one entry."""
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()
