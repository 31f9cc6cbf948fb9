"""The C++ sources under the address and undefined-behaviour sanitizers, in a process of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

OPTIONS = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all"  # the last -O counts


def runtime(name: str) -> str:
    """Path of a library of the compiler; empty if it has none."""
    command = ["g++", f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return path if Path(path).is_absolute() else ""


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the C++ compiled for sanitizers, in a cache of its own."""
    libraries = [runtime(name) for name in ("libasan.so", "libubsan.so")]
    if not all(libraries):
        pytest.skip("the compiler has no sanitizers")
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nexec g++ "$@" {OPTIONS}\n')
    compiler.chmod(0o700)
    environment = {
        **os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path), "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_decoding_attention_and_bad_requests_under_sanitizers(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "tests.helpers.native_core")
    assert (done.returncode, done.stdout) == (0, "all ran\n"), done.stderr
    assert len(list(tmp_path.rglob("*.so"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_damaged_and_forged_checkpoints_that_load_play_under_sanitizers(tmp_path: Path) -> None:
    options = ["-n0", "-q", "-p", "no:cacheprovider", "-m", "slow", "tests/test_fuzz_files.py"]
    done = run(tmp_path, "-m", "pytest", *options, "-k", "(much_damage or much_forgery) and checkpoint")
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
    assert list(tmp_path.rglob("*.so"))
