"""The documented packages and modules are those that exist, and stay small enough to look through."""

import re

import pytest

from tests.helpers.paths import ROOT

FOLDERS = ("gato_agent", "envs", "rollouts")
MODULES = 14  # at most in a folder
LEFT_OUT = {"__init__", "__main__"}


def folders() -> dict[str, set[str]]:
    """Names of the modules of each folder; C++ sources keep their ending."""
    found: dict[str, set[str]] = {}
    for top in FOLDERS:
        for path in (ROOT / top).rglob("*"):
            if path.suffix in (".py", ".cpp", ".h") and path.stem not in LEFT_OUT:
                name = path.stem if path.suffix == ".py" else path.name
                found.setdefault(path.parent.relative_to(ROOT).as_posix(), set()).add(name)
    return found


def documented() -> dict[str, set[str]]:
    """The same, as docs/architecture.md lists them."""
    block = (ROOT / "docs" / "architecture.md").read_text().split("<!-- modules")[1].split("\n\n")[1]
    found: dict[str, set[str]] = {}
    parents: list[tuple[int, str]] = []
    folder = ""
    for line in block.splitlines():
        text = line.strip()
        head, _, rest = text.partition(" ")
        if head.endswith("/"):
            depth = len(line) - len(line.lstrip())
            parents = [(at, name) for at, name in parents if at < depth] + [(depth, head[:-1])]
            folder, text = "/".join(name for _, name in parents), rest
        found.setdefault(folder, set()).update(re.findall(r"[\w.]+", text))
    return {name: modules for name, modules in found.items() if modules}


def test_every_module_is_in_the_documented_list() -> None:
    assert documented() == folders()


@pytest.mark.parametrize("folder", sorted(folders()))
def test_a_folder_has_few_modules(folder: str) -> None:
    assert len(folders()[folder]) <= MODULES


def test_no_test_module_imports_another() -> None:
    """Helpers of several modules are in tests/helpers."""
    imported = re.compile(r"^\s*(?:from|import) +(tests\.(?:\w+\.)*test_\w+)", re.MULTILINE)
    found = {path.name: imported.findall(path.read_text()) for path in sorted((ROOT / "tests").rglob("*.py"))}
    assert {name: modules for name, modules in found.items() if modules} == {}
