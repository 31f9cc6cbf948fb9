"""Suites, the modules that register them and the extras that bring them; what is missing, and the command for it."""

import ctypes
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from gato_agent.envs.errors import GatoError, UsageError, one_line

EXTRAS = {  # module -> the extra of this package that installs it
    "ale_py": "atari",
    "Box2D": "box2d",
    "gymnasium_robotics": "robotics",
    "huggingface_hub": "hub",
    "metaworld": "metaworld",
    "minatar": "minatar",
    "minigrid": "minigrid",
    "mujoco": "mujoco",
    "panda_gym": "panda",
    "pybullet": "bullet",
    "pybullet_envs_gymnasium": "bullet",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}


class Suite(NamedTuple):
    """Environments that a package outside Gymnasium brings."""

    ids: str
    """Regular expression of how their ids begin."""
    package: str
    """What has to be installed."""
    register: str
    """Module that registers the ids when it is imported; ours, where the package does it badly or not at all."""


ADAPTERS = "gato_agent.envs.adapters."
SUITES = (
    Suite(r"ALE/", "ale_py", "ale_py"),
    Suite(r"BabyAI-RGB/", "minigrid", ADAPTERS + "babyai_rgb"),
    Suite(r"(BabyAI|MiniGrid)-", "minigrid", "minigrid"),
    Suite(r"Meta-World/", "metaworld", ADAPTERS + "metaworld"),
    Suite(r"MinAtar/", "minatar", ADAPTERS + "minatar"),
    Suite(r"\w+BulletEnv-", "pybullet_envs_gymnasium", "pybullet_envs_gymnasium"),
    Suite(r"Panda", "panda_gym", "panda_gym"),
    Suite(r"(AdroitHand|AntMaze|Fetch|FrankaKitchen|HandManipulate|HandReach|PointMaze)", *["gymnasium_robotics"] * 2),
)


def suite_of(env_id: str) -> Suite | None:
    """The suite that an id belongs to by its name; None for Gymnasium's own and for those unknown here."""
    return next((suite for suite in SUITES if re.match(suite.ids, env_id)), None)


def installed(package: str) -> bool:
    """Whether a package could be imported; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # put into sys.modules by hand, without a spec
        return sys.modules.get(package) is not None


def register_suite(env_id: str) -> None:
    """Import the module that registers an id, if its suite is known and installed.

    Raises:
        UsageError: a package that the module needs is missing; the message has the command that installs it.
        GatoError: the module raised.
    """
    suite = suite_of(env_id)
    if suite is not None and installed(suite.package):
        with suppress_output():
            import_named(suite.register, env_id)


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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may call sys.exit
        raise GatoError(f"{named}: importing {module} raised {one_line(error)}") from error


def missing_install_hint(error: Exception) -> str:
    """Name the command that installs what `error` misses."""
    extra = re.search(r"gymnasium\[([\w-]+)\]", str(error))  # Gymnasium names the extra of its own that is needed
    if extra is None:
        return f"{one_line(error)}; {_bring(error.name if isinstance(error, ImportError) else None)}"
    ours = metadata("gato-agent").get_all("Provides-Extra") or []
    return f"pip install '{'gato-agent' if extra[1] in ours else 'gymnasium'}[{extra[1]}]'"


def suite_install_hint(env_id: str) -> str | None:
    """Name the command that installs the suite of an id; None if it is installed, or of no suite known here."""
    suite = suite_of(env_id)
    return None if suite is None or installed(suite.package) else _bring(suite.package)


def _bring(module: str | None) -> str:
    extra = EXTRAS.get((module or "").partition(".")[0])
    return f"pip install 'gato-agent[{extra}]'" if extra else "install it or add its folder to PYTHONPATH"


@contextmanager
def suppress_output() -> Iterator[None]:
    """Drop what is printed meanwhile, by Python or by a library in C: banners, build times, arguments of a server."""
    with Path(os.devnull).open("w") as void, redirect_stdout(void), redirect_stderr(void):
        kept = [(stream, os.dup(stream)) for stream in (1, 2)]
        try:
            for stream, _ in kept:
                os.dup2(void.fileno(), stream)
            yield
        finally:
            ctypes.CDLL(None).fflush(None)  # what C has not written yet would come out later
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)
