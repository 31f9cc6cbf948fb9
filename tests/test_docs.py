"""Documents: their words, sentences, links, commands, paths and tables, checked against the project."""

import ast
import contextlib
import io
import re
import runpy
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gato_agent.cli import VERBS, main
from tests.helpers.paths import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
PRIVATE = re.compile(  # words that stood for the field's terms; "window" alone is also one on a screen
    r"\b(lanes?|packs?|packed|PACK|pinned|pinning|films?|filmed|windows|seals?|sealed|sealing|fragments?|house"
    r"|floor|over it|halved|taped|tapes|seats?|seating|dealer|buried|hushed|guards?|shaping|play_shortly"
    r"|shortest_fragment|smooth_bins|by_timestep|parallel_actions|recorded step)\b"
)
PROSE = re.compile(
    r"\b(nobody|for ever|of before|of then|as \w+ has it|is asked for|not measured again|other figures today"
    r"|as it is now|weights of now|weights before|today|now|formerly|previously|no longer|at present|used to be)\b",
    re.IGNORECASE,
)
LONGEST = 25  # words of a sentence
BENCHMARK_LINES = 120
EXTERNAL = {"--index-url", "--strict", "--tyro-print-completion", "--help", "--nproc-per-node", "--standalone"}
FOLDERS = ("benchmarks", "docs", "envs", "examples", "gato_agent", "rollouts", "scripts", "tests")
TABLES: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "tables.py"))

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def without_code(text: str) -> str:
    """The text without blocks of code, code spans, comments and addresses of links."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^ {4}(?! *[*-] ).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"(?<=\])\([^)]*\)", "", re.sub(r"`[^`]*`", "`code`", text))


def sentences(text: str) -> list[str]:
    """Sentences of paragraphs and lists; those of tables and headings are left out."""
    lines = [line for line in without_code(text).splitlines() if not line.lstrip().startswith(("|", "#", ":::", "!["))]
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )", "\n".join(lines))
    return [each for part in paragraphs for each in re.split(r"(?<=[.:;?!])[\s*]+", part) if each.strip()]


def code_spans(text: str) -> list[str]:
    """Lines of shell blocks, continued ones joined, and code spans."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def commands(text: str, program: str) -> list[list[str]]:
    """Words after each `program` of a line, up to the end of that command."""
    found = []
    for line in re.split(rf"(?<![\w/-]){program} ", text)[1:]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("();<>|&"):
                break
            words.append(word)
        found.append(words)
    return found


def options_in(words: list[str]) -> set[str]:
    """Long options among the words of a command."""
    return {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}


@cache
def options_of(verb: str) -> frozenset[str]:
    """Options that the help of a verb lists."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    return frozenset(re.findall(r"--[a-z][\w.-]*", shown.getvalue())) | {"--help", "--tyro-print-completion"}


@cache
def options_of_script(path: Path) -> frozenset[str]:
    """Options of a script, from the fields of its dataclasses."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    fields = [node.target for each in classes for node in each.body if isinstance(node, ast.AnnAssign)]
    names = [field.id.replace("_", "-") for field in fields if isinstance(field, ast.Name)]
    return frozenset(f"--{prefix}{name}" for name in names for prefix in ("", "no-"))


def wrong_options(line: str) -> list[str]:
    """Verbs, scripts and options of a line that do not exist."""
    wrong = []
    for words in commands(line, "gato-agent") if "gato-agent " in line else []:
        if not words or words[0].startswith(("--", "VERB", "#")):
            continue
        verb = next((verb for verb in (" ".join(words[:2]), words[0]) if verb in VERBS), "")
        if not verb:
            wrong.append(f"gato-agent {words[0]}")
            continue
        full = " ".join(words[:2]) if verb == "data" and len(words) > 1 else verb
        wrong += [f"{full} {option}" for option in sorted(options_in(words) - options_of(full))]
    for words in commands(line, "python") if "python " in line else []:
        if words and words[0].startswith(("benchmarks/", "scripts/", "examples/")):
            script = ROOT / words[0]
            known = options_of_script(script) if script.is_file() else frozenset[str]()
            unknown = {option for option in options_in(words) if option.partition(".")[0] not in known}
            wrong += [words[0]] * (not script.is_file()) + [f"{words[0]} {option}" for option in sorted(unknown)]
    return wrong


@each_document
def test_a_document_has_the_fields_words_and_no_history(document: Path) -> None:
    text = without_code(document.read_text())
    assert PRIVATE.findall(text) == []
    assert PROSE.findall(text) == []


@each_document
def test_sentences_are_short(document: Path) -> None:
    text = re.sub(r"<!-- table.*?<!-- end -->", "", document.read_text(), flags=re.DOTALL)
    assert [sentence for sentence in sentences(text) if len(sentence.split()) > LONGEST] == []


def anchors(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        if not address.startswith("https://"):
            file, _, anchor = address.partition("#")
            target = document.parent / file if file else document
            assert target.exists(), address
            assert not anchor or anchor in anchors(target), address
            assert document.parent.name != "docs" or target.resolve().is_relative_to(ROOT / "docs"), address


@each_document
def test_commands_name_verbs_scripts_and_options_that_exist(document: Path) -> None:
    assert [wrong for line in code_spans(document.read_text()) for wrong in wrong_options(line)] == []


@each_document
def test_options_alone_exist_somewhere(document: Path) -> None:
    scripts = [path for folder in ("benchmarks", "scripts") for path in (ROOT / folder).glob("*.py")]
    verbs = [*VERBS, *(f"data {verb}" for verb in ("show", "verify", "export", "import"))]
    known = EXTERNAL.union(*map(options_of, verbs), *map(options_of_script, scripts))
    spans = [span.split() for span in code_spans(document.read_text()) if span.startswith("--")]
    assert [words[0] for words in spans if options_in(words) - known] == []


@each_document
def test_paths_exist(document: Path) -> None:
    words = [word for span in code_spans(document.read_text()) for word in span.split()]
    paths = [word for word in words if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w/.*-]*[\w/]", word)]
    written = {"docs/", "examples/"} | {path for path in paths if path.startswith(("data/", "runs/"))}
    assert [path for path in paths if path not in written and not (ROOT / path).exists()] == []


@each_document
def test_extras_exist(document: Path) -> None:
    import tomllib

    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    extras = re.findall(r"-e '\.\[([\w,-]+)\]'", document.read_text())
    assert {name for extra in extras for name in extra.split(",")} <= known


def test_the_checks_find_what_is_wrong() -> None:
    assert wrong_options("gato-agent trian --data x") == ["gato-agent trian"]
    assert wrong_options("gato-agent train --dat x && gato-agent play --lanes 2") == ["train --dat", "play --lanes"]
    assert wrong_options("gato-agent bench train --size nano") == []
    assert wrong_options("python benchmarks/nothing.py --x") == ["benchmarks/nothing.py", "benchmarks/nothing.py --x"]
    assert wrong_options("python benchmarks/choices.py --env A --episode 3") == ["benchmarks/choices.py --episode"]
    assert sentences("One. Two: three\nfour.\n\n* five\n* six") == ["One.", "Two:", "three\nfour.", "* five", "* six"]
    assert PRIVATE.search("64 lanes") and PROSE.search("it is Now fast") and not PROSE.search("a known task")


@pytest.mark.parametrize("document", TABLES["DOCUMENTS"], ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_of_documents_are_those_of_the_results(document: Path) -> None:
    assert document.read_text() == TABLES["written"](document), "run `python scripts/tables.py`"


@pytest.mark.parametrize("name", TABLES["names"]())
def test_results_have_a_source_and_a_document(name: str) -> None:
    table = TABLES["load"](name)
    assert table.title and table.command and table.rows
    assert (table.commit is None) == (table.machine is None) == (name in TABLES["COMPUTED"])
    assert table.commit is None or re.fullmatch(r"[0-9a-f]{7}(, [0-9a-f]{7})*", table.commit)
    assert wrong_options(table.command) == []
    assert name in {shown for shown, _ in TABLES["shown_in"]()}, "no document shows it"


@pytest.mark.parametrize("name", TABLES["COMPUTED"])
def test_computed_results_are_those_of_the_code(name: str) -> None:
    assert TABLES["load"](name) == TABLES["COMPUTED"][name](), "run `python scripts/tables.py --update`"


def test_the_page_of_benchmarks_is_short() -> None:
    assert len((ROOT / "benchmarks" / "README.md").read_text().splitlines()) <= BENCHMARK_LINES
