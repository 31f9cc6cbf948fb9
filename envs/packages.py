"""Modules that the user names and packages that environments need: what is missing, and the command that brings it."""

import importlib
import importlib.util
import re
from importlib.metadata import metadata
from types import ModuleType

from gato_agent.envs.errors import GatoError, UsageError, one_line

EXTRAS = {  # module -> the extra of this package that installs it
    "ale_py": "atari",
    "Box2D": "box2d",
    "metaworld": "metaworld",
    "minigrid": "minigrid",
    "mujoco": "mujoco",
}
SUITES = {  # how the ids of a suite begin -> the module that registers them
    "ALE/": "ale_py",
    "BabyAI-": "minigrid",
    "Meta-World/": "metaworld",
    "MiniGrid-": "minigrid",
}


def import_named(module: str, named: str) -> ModuleType:
    """Import a module that the user named, on the command line or in a call; never one that a file names.

    Args:
        module: its dotted name.
        named: where the user named it, for errors.

    Raises:
        UsageError: there is no such module, or it imports one that is missing.
        GatoError: it raised.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"{named}: no module named {error.name}; {_bring(error.name)}") from error
    except Exception as error:
        raise GatoError(f"{named}: importing {module} raised {one_line(error)}") from error


def bring_missing(error: Exception) -> str:
    """Name the command that installs what `error` misses."""
    extra = re.search(r"gymnasium\[([\w-]+)\]", str(error))  # Gymnasium names the extra of its own that is needed
    if extra is None:
        return f"{one_line(error)}; {_bring(error.name if isinstance(error, ImportError) else None)}"
    ours = metadata("gato-agent").get_all("Provides-Extra") or []
    return f"pip install '{'gato-agent' if extra[1] in ours else 'gymnasium'}[{extra[1]}]'"


def bring_suite(env_id: str) -> str | None:
    """Name the command that installs the suite of an id; None if it is installed, or of no suite known here."""
    for start, module in SUITES.items():
        if env_id.startswith(start) and importlib.util.find_spec(module) is None:
            return _bring(module)
    return None


def _bring(module: str | None) -> str:
    extra = EXTRAS.get((module or "").partition(".")[0])
    return f"pip install 'gato-agent[{extra}]'" if extra else "install it or add its folder to PYTHONPATH"
