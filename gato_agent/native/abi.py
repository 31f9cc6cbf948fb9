"""Struct layouts and error codes at the border between Python and the compiled C++."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

from gato_agent.native.build import library


def load(source: Path, purpose: str, abi: int, structs: Sequence[type[ctypes.Structure]]) -> ctypes.CDLL:
    """Compile and load a C++ file that was written for the same structs.

    Args:
        source: C++ file with `gato_abi`, `gato_sizes` and `gato_error`.
        purpose: noun phrase for the message that says what is compiled.
        abi: version of the meaning of the structs' fields, raised on both sides at every change.
        structs: that cross the border, in the order of `gato_sizes`.

    Raises:
        OSError: it cannot be compiled, or its structs differ.
    """
    compiled = library(source, purpose)
    compiled.gato_error.restype = ctypes.c_char_p
    if (version := compiled.gato_abi()) != abi:
        raise OSError(f"{source.name} was compiled with ABI {version}, and Python has {abi}: reinstall gato-agent")
    sizes = (ctypes.c_int32 * len(structs))()
    count = compiled.gato_sizes(sizes, len(structs))
    if count != len(structs) or list(sizes) != [ctypes.sizeof(struct) for struct in structs]:
        raise OSError(f"{source.name} was compiled with other structs: {list(sizes)}: reinstall gato-agent")
    return compiled


def check(compiled: ctypes.CDLL, code: int) -> None:
    """Raise ValueError with the message of an error code that a call returned, unless it is 0."""
    if code:
        raise ValueError(compiled.gato_error(code).decode())
