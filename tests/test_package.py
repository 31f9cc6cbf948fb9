"""The package: its wheel and sdist, what importing it brings, and words that no file may hold."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from gato_agent.envs.loop import Step
from tests.helpers.paths import ROOT

PACKAGES = {"gato_agent": "gato_agent", "envs": "gato_agent/envs", "rollouts": "gato_agent/rollouts"}


def output(*command: object, cwd: Path = ROOT, **environment: str) -> str:
    words = [str(word) for word in command]
    surroundings = {**os.environ, **environment}
    done = subprocess.run(words, cwd=cwd, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    """Paths of the source tree's files and links, relative to ROOT; new ones count, ignored ones do not."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return sorted({Path(name) for name in names if name and os.path.lexists(ROOT / name)})


@pytest.fixture(scope="session")
def shipped(tracked: list[Path]) -> set[str]:
    """Paths inside the wheel of every file that the three packages hold."""
    files = [path for path in tracked if path.parts[0] in PACKAGES and not (ROOT / path).is_symlink()]
    return {Path(PACKAGES[path.parts[0]], *path.parts[1:]).as_posix() for path in files}


@pytest.fixture(scope="session")
def built(tracked: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist, built from a copy so that nothing is left in the source tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    copy(tracked, source)
    build(source, out, "build_sdist", "build_wheel")
    return out


def copy(tracked: list[Path], source: Path) -> None:
    for path in tracked:
        (source / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)


def build(source: Path, out: Path, *hooks: str, backend: str = "setuptools.build_meta") -> None:
    calls = "; ".join(f"backend.{hook}({str(out)!r})" for hook in hooks)
    program = f"import sys; sys.path.insert(0, 'scripts'); import {backend} as backend; {calls}"
    output(sys.executable, "-c", program, cwd=source)


def wheel_of(folder: Path) -> Path:
    (wheel,) = folder.glob("gato_agent-*.whl")
    return wheel


def files_in(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="session")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which only the wheel is installed; its dependencies come from the environment around it."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    output(*pip, "--target", target, wheel_of(built))
    return target


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A user's own folder, with an `envs` and a `rollouts` of its own."""
    for name in ("envs", "rollouts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("mine = True\n")
    return tmp_path


def test_the_wheel_holds_every_file_of_the_three_packages_and_nothing_else(built: Path, shipped: set[str]) -> None:
    assert files_in(wheel_of(built)) == shipped


def test_the_sdist_builds_the_same_wheel_and_brings_its_tests(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("gato_agent-*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)  # tarfile's own filter is not in Python 3.11.0 to 3.11.3
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    build(source, tmp_path, "build_wheel")
    assert files_in(wheel_of(tmp_path)) == files_in(wheel_of(built))
    assert (source / "tests" / Path(__file__).name).is_file()
    assert (source / "constraints.txt").is_file()


def test_no_top_level_envs_or_rollouts_is_installed(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"gato_agent", "bin"}


def test_an_installed_wheel_is_ours_beside_folders_of_the_same_names(installed: Path, elsewhere: Path) -> None:
    program = (
        "import envs, rollouts, gato_agent.envs.loop, gato_agent.rollouts\n"
        "assert envs.mine and rollouts.mine\n"
        "print(gato_agent.envs.loop.__file__, gato_agent.rollouts.__file__, sep='\\n')"
    )
    files = output(sys.executable, "-c", program, cwd=elsewhere, PYTHONPATH=str(installed)).split()
    package = installed / "gato_agent"
    assert files == [str(package / "envs" / "loop.py"), str(package / "rollouts" / "__init__.py")]


def test_this_checkout_is_ours_beside_folders_of_the_same_names(elsewhere: Path) -> None:
    program = "import envs, gato_agent.envs.loop as loop; assert envs.mine; print(loop.__file__)"
    file = output(sys.executable, "-c", program, cwd=elsewhere).strip()
    assert Path(file).resolve() == ROOT / "envs" / "loop.py"


def test_a_spawned_process_finds_the_packages() -> None:
    step = Step(0, 1, 2, None, None, 3.0, False, False, {}, None)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(repr, (step,)) == repr(step)


LIGHT = [
    "gato_agent",
    "gato_agent.commands.catalogue",
    "gato_agent.cli",
    "gato_agent.model.config",
    "gato_agent.tokens.space_tokenizer",
]


@pytest.mark.parametrize("module", LIGHT)
def test_importing_a_light_module_brings_no_deep_learning_library(module: str) -> None:
    program = (
        f"import sys, {module}; print(*sorted({{'torch', 'stable_baselines3', 'sb3_contrib'}} & set(sys.modules)))"
    )
    assert output(sys.executable, "-c", program).split() == []


def test_the_public_names_are_there_and_a_wrong_one_is_named() -> None:
    import gato_agent

    assert all(getattr(gato_agent, name) for name in gato_agent.__all__)
    assert set(gato_agent.__all__) <= set(dir(gato_agent))
    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        _ = gato_agent.Agnet


@pytest.mark.parametrize("package", ["model", "tokens", "checkpoints", "inference", "rollouts"])
def test_a_package_has_its_public_names(package: str) -> None:
    module = import_module(f"gato_agent.{package}")
    assert all(getattr(module, name).__name__ == name for name in module.__all__)
    with pytest.raises(AttributeError, match=f"'gato_agent.{package}' has no attribute 'wrong'"):
        _ = module.wrong


def test_the_links_are_relative_and_committed_as_links(tracked: list[Path]) -> None:
    for link in ("envs", "rollouts"):
        assert (ROOT / "gato_agent" / link).readlink() == Path("..", link)
        assert output("git", "ls-files", "--stage", f"gato_agent/{link}").startswith("120000 ")


@pytest.mark.parametrize("line", ["import envs", "import rollouts.store", "from envs.loop import steps"])
def test_the_linter_refuses_a_bare_import(line: str) -> None:
    refused = lint("gato_agent/x.py", line)
    assert refused.returncode == 1, refused.stderr
    assert "Write gato_agent." in refused.stdout
    assert lint("rollouts/x.py", line).returncode == lint("tests/x.py", line).returncode == 1
    full = line.replace("envs", "gato_agent.envs").replace("rollouts", "gato_agent.rollouts")
    assert lint("gato_agent/x.py", full).returncode == 0


def lint(file: str, line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select=TID251", "--stdin-filename", file, "-"]
    return subprocess.run(command, cwd=ROOT, input=line + "\n", capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_static_tools_find_the_editable_install(tracked: list[Path], tmp_path: Path) -> None:
    source, venv, user = tmp_path / "source", tmp_path / "venv", tmp_path / "user"
    copy(tracked, source)
    output(sys.executable, "-m", "venv", "--without-pip", venv)
    (site,) = venv.glob("lib/python*/site-packages")
    build(source, tmp_path, "build_editable", backend="build_backend")
    with zipfile.ZipFile(wheel_of(tmp_path)) as wheel:
        wheel.extractall(site)
        recorded = wheel.read(next(name for name in wheel.namelist() if name.endswith("RECORD"))).decode()
        assert {line.split(",")[0] for line in recorded.splitlines()} == set(wheel.namelist())
    user.mkdir()
    (user / "mine.py").write_text(
        "import gato_agent\nfrom gato_agent.training.config import TrainConfig\n"
        "reveal_type(TrainConfig().steps)\nreveal_type(gato_agent.envs)\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--python-executable", venv / "bin" / "python", "--cache-dir", tmp_path / "c"]
    shown = output(*mypy, "mine.py", cwd=user, MYPYPATH="", PYTHONPATH="")
    assert 'Revealed type is "int"' in shown.replace("builtins.", "")
    program = (
        "from importlib.util import find_spec as find\nassert find('envs') is find('tests') is None\n"
        "print(find('gato_agent').origin)"
    )
    file = output(venv / "bin" / "python", "-c", program, cwd=user, PYTHONPATH="").strip()
    assert Path(file).resolve() == (source / "gato_agent" / "__init__.py").resolve()


def test_no_file_names_a_path_of_one_machine(tracked: list[Path]) -> None:
    path_of_one_machine = re.compile(rb"(?<![\w.~}/-])/(?:home|mnt|opt|root|scratch|tmp|Users|work)/[\w.]")
    contents = {path: (ROOT / path).read_bytes() for path in tracked if (ROOT / path).is_file()}
    texts = {path: content for path, content in contents.items() if b"\0" not in content}
    assert [str(path) for path, text in texts.items() if path_of_one_machine.search(text)] == []
