"""Compiling at first use: one line on stderr, and only when a compiler runs."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from gato_agent.inference.decoders import cpu_decoder
from gato_agent.model import cpu_attention
from gato_agent.native import build


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache folder with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cached = build.library, cpu_decoder._compiled, cpu_attention._compiled, cpu_attention.available
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small C++ file."""
    path = tmp_path / "small.cpp"
    path.write_text('extern "C" int answer() { return 42; }')
    return path


def test_the_first_use_says_that_it_compiles_and_the_second_does_not(
    source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for expected in ("compiling a test (once) ...\n", ""):
        assert build.library(source, "a test").answer() == 42
        assert capfd.readouterr() == ("", expected)
        build.library.cache_clear()


@pytest.mark.parametrize(("compiler", "said"), [("/no/such/compiler", ""), ("false", "compiling a test (once) ...\n")])
def test_it_is_said_once_when_a_compiler_runs(
    compiler: str, said: str, source: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A compiler that fails is tried without OpenMP too."""
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(OSError, match=r"the C\+\+ compiler .* (cannot be run|failed)"):
        build.library(source, "a test")
    assert capfd.readouterr().err == said


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (cpu_decoder, "compiling the CPU decoder (once) ..."),
        (cpu_attention, "compiling the CPU attention of training (once) ..."),
    ],
)
def test_decoder_and_attention_are_named(
    module: ModuleType, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(OSError, match="failed"):
        module._compiled()
    assert capfd.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ('g++ "', "CXX is .* which is no command"),
        ("/", "cannot be run"),
        ("sh -c 'printf \\377 >&2; exit 1'", "failed"),
    ],
)
def test_a_compiler_that_is_none_is_named(
    compiler: str, message: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(OSError, match=message):
        build.library(source, "a test")


def test_code_from_a_folder_that_others_can_write_is_not_run(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache/gato-agent"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(OSError, match=r"other users can write into .*: set XDG_CACHE_HOME"):
        build.library(source, "a test")
    folder.chmod(0o700)
    assert build.library(source, "a test").answer() == 42


def test_code_from_the_folder_of_another_user_is_not_run(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.getuid()
    for user, allowed in ((mine + 12345, mine == 0), (mine, True), (0, True)):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        if allowed:  # root's own code is as safe as Python itself
            assert build.library(source, "a test").answer() == 42
            build.library.cache_clear()
        else:
            with pytest.raises(OSError, match="other users can write into"):
                build.library(source, "a test")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "digest", "folder"])
def test_damaged_compiled_code_is_compiled_again(source: Path, tmp_path: Path, damage: str) -> None:
    assert build.library(source, "a test").answer() == 42
    (code,) = (tmp_path / "cache/gato-agent").glob("*.so")
    content, digest = code.read_bytes(), code.with_suffix(".sha256")
    if damage == "digest":
        digest.write_text("0" * 64)
    elif damage == "folder":
        digest.unlink()
        digest.mkdir()
    else:  # with a digest that fits in one case, as of code for another processor
        code.unlink()
        code.write_bytes({"cut": content[:-1000], "empty": b"", "text": b"no code"}[damage])
        if damage == "text":
            digest.write_text(hashlib.sha256(code.read_bytes()).hexdigest())
    build.library.cache_clear()
    if damage == "folder":
        with pytest.raises(OSError, match="directory"):
            build.library(source, "a test")
    else:
        assert build.library(source, "a test").answer() == 42
