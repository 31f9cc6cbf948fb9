"""The JSON beside an exported graph, read strictly: its keys, arrays and spaces, and digests of the files beside it."""

import hashlib
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import read_own
from gato_agent.envs.io.strict_json import parse, record, typed, without_digest
from gato_agent.envs.spaces.flatten import leaves, space_from_json
from gato_agent.envs.spaces.json_arrays import NAMES
from gato_agent.exporting.signature import FORMAT, Port

KEYS = {"format", "task", "num_envs", "inputs", "outputs", "states", "observation_space", "action_space"}


def check_digest(path: Path, data: bytes, about: dict[str, Any], key: str) -> None:
    """Raise GatoError for a file that differs from the exported one."""
    digests = about.get("sha256")
    if isinstance(digests, dict) and digests.get(key) != hashlib.sha256(data).hexdigest():
        raise GatoError(f"{path} is not the file that was exported: export it again, or delete sha256 and digest from "
                        "the JSON beside it if you changed it")  # fmt: skip


def read_description(path: Path) -> dict[str, Any]:
    """Content of the JSON beside a graph.

    Raises:
        UsageError: there is no such file.
        GatoError: it is damaged, or of another version.
    """
    try:
        about: dict[str, Any] = dict(parse(read_own(path)))
    except FileNotFoundError as error:
        raise UsageError(f"no {path}: gato-agent export writes it beside the graph") from error
    except (ValueError, TypeError) as error:
        raise GatoError(f"{path} is not the JSON of an exported graph: {one_line(error):.200}") from error
    if missing := KEYS - about.keys():
        raise GatoError(f"{path} is not the JSON of an exported graph: it has no {min(missing)}")
    if about["format"] != FORMAT:
        raise GatoError(f"{path} has format {about['format']!r:.20} and this version reads {FORMAT}: export again")
    try:
        about = without_digest(about)
        _check_ports(about)
    except (KeyError, TypeError, ValueError) as error:
        raise GatoError(f"{path} is damaged ({one_line(error):.200}): export again") from error
    return about


def _check_ports(about: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError unless the arrays of a description are those of its spaces."""
    if typed(about["num_envs"], int, "num_envs") < 1:
        raise ValueError("no environment")
    typed(about["task"], str, "task")
    spaces = {
        "observation": space_from_json(about["observation_space"]),
        "action": space_from_json(about["action_space"]),
    }
    paths = {role: {leaf.path for leaf in leaves(space)} for role, space in spaces.items()}
    names = set()
    for entry in (*about["inputs"], *about["outputs"]):
        port = record(Port, {**entry, "shape": tuple(entry["shape"])})
        names.add(port.name)
        if not all(type(side) is int and side >= 0 for side in port.shape):
            raise ValueError(f"shape {port.shape!r:.80}")
        if port.dtype not in NAMES or (port.role in paths and port.leaf not in paths[port.role]):
            raise ValueError(f"{port.name!r:.80} of {port.dtype!r:.20} and leaf {port.leaf!r:.80}")
    if {port["leaf"] for port in about["outputs"] if port["role"] == "action"} != paths["action"]:
        raise ValueError("not all of the action")
    if any(state[end] not in names for state in about["states"] for end in ("input", "output")):
        raise ValueError("a state without an input or output")
