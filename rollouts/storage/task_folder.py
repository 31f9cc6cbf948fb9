"""Folder of a task, and its header task.json: the environment, expert and settings that all episodes share."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import gymnasium as gym

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import below, read_own
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import parse, typed, without_digest
from gato_agent.envs.spaces.flatten import space_from_json
from gato_agent.envs.suggested_commands import suggest

FORMAT = 1
HEADER = "task.json"
SETTINGS = {  # settings that all episodes of a folder share, and their names in messages
    "env_id": "environment",
    "env_kwargs": "--env-kwargs",
    "observation_space": "observation space",
    "action_space": "action space",
    "expert": "--expert",
    "noise": "--noise",
}
SPACES = ("observation_space", "action_space")
TYPES: dict[str, Any] = {  # of the other entries of the header
    "env_kwargs": dict[str, Any], "expert": dict[str, Any], "noise": bool, "versions": dict[str, str],
    "learner": dict[str, Any],
}  # fmt: skip
LEARNER = {"learner": "--dagger or --dagger-beta"}  # an optional setting: an agent acted


def folder_of(root: Path, env_id: str) -> Path:
    """Folder of a task under `root`: its id with "/" as %2F."""
    return root / quote(env_id, safe="")


def env_id_of(folder: Path) -> str:
    """Id of the task in a folder; the inverse of `folder_of`."""
    return unquote(folder.absolute().name)


def task_folder(root: Path, env_id: str) -> Path:
    """Folder of a task under `root`; raises UsageError for a link, and for an invalid id."""
    if not plain.is_env_id(env_id):
        raise UsageError(f"{env_id!r} is no environment's registered id, such as CartPole-v1")
    return below(root, folder_of(root, env_id).name)


def task_folders(root: Path) -> list[Path]:
    """Folders of tasks in `root`, in the order of names; or `root` itself, if it is the folder of a task.

    Raises:
        UsageError: there is no task.
    """
    headers = [root / HEADER] if (root / HEADER).is_file() else sorted(root.glob(f"*/{HEADER}"))
    if not headers:
        command = suggest("collect into", env="CartPole-v1", out=root)
        raise UsageError(f"no episodes in {root}: make some with `{command}`")
    return [header.parent for header in headers]


def read_header(path: Path) -> dict[str, Any]:
    """Read and check a task.json.

    Raises:
        UsageError: there is none.
        GatoError: it is damaged, or of a newer version.
    """
    way_out = "restore it, or collect into another --out"
    try:
        data = parse(read_own(path))
        other = isinstance(data, dict) and data.get("format", FORMAT) != FORMAT  # its digest may differ too
        header = data if other else without_digest(data)
    except FileNotFoundError:
        command = suggest("collect into", env="CartPole-v1", out=path.parent.parent)
        raise UsageError(f"no episodes in {path.parent}: make some with `{command}`") from None
    except ValueError as error:
        raise GatoError(f"{path} is damaged and does not describe a task ({error}): {way_out}") from error
    if not SETTINGS.keys() <= header.keys():
        raise GatoError(f"{path} does not describe a task: {way_out}")
    if header.get("format") != FORMAT:
        raise GatoError(f"{path} has format {header.get('format')}, this version reads {FORMAT}: upgrade gato-agent")
    try:
        for key in sorted(TYPES.keys() & header.keys()):
            typed(header[key], TYPES[key], key)
        for key in ("kind", "source", "sha256"):
            typed(header["expert"][key], str, f"expert {key}")
        typed(header.get("learner", {"kind": ""})["kind"], str, "learner kind")
    except (LookupError, ValueError) as error:
        raise GatoError(f"{path} is damaged ({one_line(error)}): {way_out}") from error
    plain.env_id(header["env_id"], path, way_out)
    for actor in (header["expert"], header.get("learner", header["expert"])):  # kinds become parts of file names
        plain.name(actor["kind"], path, way_out)
    return header


def space_of(path: Path, header: dict[str, Any], name: str) -> gym.Space[Any]:
    """Rebuild a space of a header; raises GatoError naming the file."""
    try:
        return space_from_json(header[name])
    except GatoError as error:
        raise GatoError(f"{path}: {name} is {error}; restore it, or collect into another --out") from error


def check_same(folder: Path, existing: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UsageError for episodes of other settings than those of a folder."""
    for key, name in (SETTINGS | LEARNER).items():
        then, now = existing.get(key), wanted.get(key)
        if then != now:
            raise UsageError(
                f"{folder} was collected with another {name} ({_short(then)}, now {_short(now)}): "
                "repeat that, choose another --out, or delete the folder"
            )


def _short(value: Any) -> str:
    """Short text for one setting."""
    if isinstance(value, dict) and "sha256" in value:
        parts = value["kind"], value.get("source"), value["sha256"][:8], value.get("beta")
        return " ".join(str(part) for part in parts if part is not None)
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
