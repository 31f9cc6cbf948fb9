"""Compilation of the C++ sources at first use, by the machine's own compiler and for its processor."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from gato_agent.envs.errors import at_least, at_most
from gato_agent.envs.files import write_files

SOURCES = Path(__file__).parent  # of the C++ files
MOST_THREADS = 1024  # of a call, as in abi.h
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")


def check_threads(num_threads: int | None) -> None:
    """Raise UsageError for a number of threads that no process can start."""
    at_least(1, num_threads=num_threads)
    at_most(MOST_THREADS, num_threads=num_threads)


@cache
def library(source: Path, purpose: str) -> ctypes.CDLL:
    """Compile a C++ file, unless this machine did so before, and load it.

    Args:
        source: C++ file, whose headers lie beside it.
        purpose: noun phrase for the line on stderr that says what is compiled.

    Raises:
        OSError: there is no compiler, or it failed.
    """
    command = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not command:
        raise OSError("no C++ compiler was found: install g++ or clang++")
    try:
        compiler = shlex.split(command)
    except ValueError as error:
        raise OSError(f"CXX is {command!r:.80}, which is no command ({error})") from error
    folder = _folder()
    target = folder / f"{source.stem}-{_identity(compiler, source)}.so"
    if _is_whole(target):
        with suppress(OSError):  # what is there is broken: make it again
            return ctypes.CDLL(str(target))
    _compile(compiler, source, target, purpose)
    write_files({_beside(target): _digest(target).encode()})
    return ctypes.CDLL(str(target))


def _folder() -> Path:
    """Folder of compiled code, which this process runs; raises OSError if other users could have written it."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gato-agent"
    except RuntimeError as error:
        raise OSError("there is no home folder to keep compiled code in: set XDG_CACHE_HOME") from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info, user = folder.stat(), os.getuid() if hasattr(os, "getuid") else 0
    if info.st_mode & stat.S_IWOTH or (user and info.st_uid not in (0, user)):
        raise OSError(f"other users can write into {folder}, whose code would be run: set XDG_CACHE_HOME to your own")
    return folder


def _is_whole(target: Path) -> bool:
    """True if compiled code is what its digest beside it says; loading a file that was cut would end the process."""
    try:
        return _beside(target).read_bytes() == _digest(target).encode()
    except OSError:
        return False


def _beside(target: Path) -> Path:
    return target.with_suffix(".sha256")


def _digest(target: Path) -> str:
    return hashlib.sha256(target.read_bytes()).hexdigest()


def _identity(compiler: Sequence[str], source: Path) -> str:
    """Digest of all that the machine code depends on: source, headers beside it, compiler, flags and processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    able = sorted({line for line in lines if line.startswith(("flags", "Features", "CPU part"))})  # x86, then ARM
    settings = repr((FLAGS, compiler, platform.machine(), platform.processor(), able))
    texts = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    return hashlib.sha256(b"".join((*texts, settings.encode()))).hexdigest()[:16]


def _compile(compiler: Sequence[str], source: Path, target: Path, purpose: str) -> None:
    """Compile into a temporary file and move it into place, so that processes can do it at once."""
    message, errors = f"compiling {purpose} (once) ...", ""
    for threads in (("-fopenmp",), ()):  # Apple's clang has no OpenMP
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / target.name
            code, errors = _run([*compiler, *FLAGS, *threads, "-o", str(built), str(source)], message)
            if code == 0:
                with built.open("rb") as file:  # on disk before it has its name; each process has a file of its own
                    os.fsync(file.fileno())
                built.replace(target)
                return
            message = ""
    raise OSError(f"the C++ compiler {compiler[0]} failed: {' '.join(errors.split())[:200]}")


def _run(command: Sequence[str], message: str) -> tuple[int, str]:
    """Run a compiler; returns its exit code and errors. The message is printed when it has started."""
    try:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=pipe, text=True, errors="replace")
    except OSError as error:
        raise OSError(f"the C++ compiler {command[0]} cannot be run ({error.strerror})") from error
    with process:
        if message:
            sys.stderr.write(f"{message}\n")
        _, errors = process.communicate()
    return process.returncode, errors
