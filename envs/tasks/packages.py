"""Suites of environments, the packages that they need, and the commands that install missing packages."""

import ctypes
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym

from gato_agent.envs import adapters
from gato_agent.envs.errors import GatoError, UsageError, one_line

SUITES = Path(__file__).parent / "suites"  # a table of each suite's tasks
TOOLS = {  # module of no suite -> extra of this package that installs it
    "huggingface_hub": "hub",
    "msgpack": "serve",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
    "websockets": "serve",
}


@dataclass(frozen=True)
class Suite:
    """A family of environments and the packages that it needs, declared as `SUITE` by a module of `envs/adapters`.

    Attributes:
        ids: regular expression that the ids of its environments begin with; no two suites share an id.
        extra: extra of this package that installs `packages`.
        packages: modules that must be installed.
        distributions: their names on PyPI, whose versions are stored with episodes.
        module: module that registers the ids, or that `register` needs; None if it is not imported first.
        register: registers the ids that neither `module` nor Gymnasium registers; it may be called several times.
        own: True if `register` imports none of the packages and its ids are no other package's; `import gato_agent`
            then registers them, so that `gymnasium.make` knows them.
        wrap: wrapper of each environment.
        stateful_reset: regular expression of ids whose reset does not clear all state, see recreate.py.
    """

    ids: str
    extra: str
    packages: tuple[str, ...]
    distributions: tuple[str, ...]
    module: str | None = None
    register: Callable[[], None] | None = None
    own: bool = False
    wrap: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None = None
    stateful_reset: str | None = None

    @property
    def registers(self) -> bool:
        """True if Gymnasium does not register its ids by itself."""
        return self.module is not None or self.register is not None

    @property
    def is_installed(self) -> bool:
        """True if all of its packages could be imported."""
        return all(map(installed, self.packages))


@cache
def suites() -> list[Suite]:
    """The `SUITE` of every module of `envs/adapters`, by name of module."""
    names = sorted(module.name for module in pkgutil.iter_modules(adapters.__path__))
    return [importlib.import_module(f"{adapters.__name__}.{name}").SUITE for name in names]


def suite_of(env_id: str) -> Suite | None:
    """Suite of an environment id; None for ids of no suite."""
    return next((suite for suite in suites() if re.match(suite.ids, env_id)), None)


def packages_of(extra: str | None) -> list[str]:
    """Modules that an extra of this package installs for its suites; none for None."""
    return sorted({package for suite in suites() if suite.extra == extra for package in suite.packages})


def installed(package: str) -> bool:
    """True if a package could be imported; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module of sys.modules without a spec
        return sys.modules.get(package) is not None


def register_suite(env_id: str) -> None:
    """Register the environments of an id's suite, if the suite is known and installed.

    Raises:
        UsageError: a package is missing; the message has the command that installs it.
        GatoError: registering raised.
    """
    suite = suite_of(env_id)
    if suite is None or not suite.registers or not suite.is_installed:
        return
    with suppress_output():
        if suite.module is not None:
            import_named(suite.module, env_id)
        if suite.register is not None:
            suite.register()


def ids_of(suite: str) -> list[str]:
    """Environment ids of a suite's table in their order, without reading the rest of it."""
    return re.findall(r'^\[tasks\."(.+)"\]$', (SUITES / f"{suite}.toml").read_text(encoding="utf-8"), re.MULTILINE)


def register_own() -> None:
    """Register the ids of this package's own environments whose packages are installed; imports no package."""
    for suite in suites():
        if suite.own and suite.register is not None and suite.is_installed:
            suite.register()


def import_named(module: str, named: str) -> ModuleType:
    """Import a module that the user named, on the command line or in a call; never one that a file names.

    A module in the working folder is found as well, after all others: the path of a program does not have that folder.

    Args:
        module: dotted name.
        named: option or id with which the user named it, for errors.

    Raises:
        UsageError: there is no such module, or it imports one that is missing.
        GatoError: the module raised.
    """
    first, current = module.partition(".")[0], Path.cwd()
    try:
        if (current / f"{first}.py").is_file() or (current / first).is_dir():
            sys.path += [] if importlib.util.find_spec(first) else [str(current)]
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"{named}: no module named {error.name}; {_install_hint(error.name)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may call sys.exit
        raise GatoError(f"{named}: importing {module} raised {one_line(error)}") from error


def missing_install_hint(error: Exception) -> str:
    """Command that installs the package whose absence raised `error`."""
    extra = re.search(r"gymnasium\[([\w-]+)\]", str(error))  # Gymnasium names its own extra
    if extra is None:
        return f"{one_line(error)}; {_install_hint(error.name if isinstance(error, ImportError) else None)}"
    from importlib.metadata import metadata  # slow to import

    ours = metadata("gato-agent").get_all("Provides-Extra") or []
    return f"pip install '{'gato-agent' if extra[1] in ours else 'gymnasium'}[{extra[1]}]'"


def suite_install_hint(env_id: str) -> str | None:
    """Command that installs the suite of an id; None if it is installed, or the id is of no suite."""
    suite = suite_of(env_id)
    missing = [package for package in suite.packages if not installed(package)] if suite and suite.registers else []
    return _install_hint(missing[0]) if missing else None


def _install_hint(module: str | None) -> str:
    name = (module or "").partition(".")[0]
    extra = next((suite.extra for suite in suites() if name in suite.packages), TOOLS.get(name))
    return f"pip install 'gato-agent[{extra}]'" if extra else "install it or add its folder to PYTHONPATH"


@contextmanager
def suppress_output() -> Iterator[None]:
    """Discard standard output and error of a block, of Python and of C libraries, such as banners and build times."""
    with Path(os.devnull).open("w") as void, redirect_stdout(void), redirect_stderr(void):
        saved = [(stream, os.dup(stream)) for stream in (1, 2)]
        try:
            for stream, _ in saved:
                os.dup2(void.fileno(), stream)
            yield
        finally:
            ctypes.CDLL(None).fflush(None)  # C's buffers would be printed later
            for stream, copy in saved:
                os.dup2(copy, stream)
                os.close(copy)
