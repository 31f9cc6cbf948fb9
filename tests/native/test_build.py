"""Compiling at first use: one line on stderr, and only when a compiler runs."""

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
