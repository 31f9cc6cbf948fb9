"""Docstrings and names say what they mean in the field's own words: the rules of CONTRIBUTING, checked."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FOLDERS = ("gato_agent", "envs", "rollouts", "benchmarks", "examples", "scripts", "tests")
FIRST_WORDS = {"What", "Whether", "Who", "How", "Where"}  # a docstring says what a thing is, not a question about it
LONGEST = 25  # words of a docstring's first sentence
LISTS = {"test_prose.py", "test_docs.py"}  # modules that hold the forbidden words themselves
PRIVATE = re.compile(  # words that stood for the field's terms; code, comments, docstrings, documents
    r"\b(lanes?|packs|PACK|Places|Band|Flex|Look|Pinned|pinning|Opening|Told|Drawn|taped|Filmers|Scene|seating|Seats|Paced"
    r"|Measurers|Conditions|Dealer|bury|buried|spared|pulse|BEATS|sealed|Seal|Committer|Guard|FORGETFUL|hushed|Ranks"
    r"|play_shortly|shaping|OURS|PAPERS|LATER|fragments?|shortest_fragment|by_timestep|rooms of the house)\b"
)
IN_NAMES = {
    "lane",
    "lanes",
    "packs",
    "pinned",
    "dealt",
    "film",
    "films",
    "filmed",
    "sealed",
    "fragment",
    "fragments",
    "halved",
}
PROSE = re.compile(r"\b(nobody|for ever|of before|as \w+ has it|is asked for|not measured again|other figures today)\b")


def sources() -> list[Path]:
    """Python files of the project, links left out."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [p for p in paths if not any(parent.is_symlink() for parent in p.parents) and p.name not in LISTS]


def docstrings(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, name and text of each docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), getattr(node, "name", path.stem), text


def complaints(path: Path) -> list[str]:
    """Sentences and words of a file that the rules do not allow."""
    where, found = path.relative_to(ROOT), []
    for line, name, text in docstrings(path):
        sentence = re.split(r"(?<=[.:;])\s|\n\n", text, maxsplit=1)[0]
        if text.split()[0] in FIRST_WORDS:
            found.append(f"{where}:{line} {name}: begins with {text.split()[0]}")
        if len(sentence.split()) > LONGEST:
            found.append(f"{where}:{line} {name}: a first sentence of {len(sentence.split())} words")
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    for node in functions:
        found += [f"{where}:{node.lineno}: {word!r}" for word in sorted(IN_NAMES & set(node.name.split("_")))]
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        rule = {tokenize.NAME: PRIVATE, tokenize.COMMENT: PROSE, tokenize.STRING: PROSE}.get(token.type)
        words = [m.group(0) for m in rule.finditer(token.string)] if rule else []
        if token.type == tokenize.COMMENT or (
            token.type == tokenize.STRING and token.string.lstrip("rf").startswith('"""')
        ):
            words += [m.group(0) for m in PRIVATE.finditer(token.string)]
        found += [f"{where}:{token.start[0]}: {word!r}" for word in words]
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_names_follow_the_rules(path: Path) -> None:
    assert complaints(path) == []
