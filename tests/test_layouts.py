"""The layout of a timestep and the attention rule are stated once; few modules branch on them."""

import ast
from collections.abc import Iterator

from tests.helpers.paths import ROOT

LAYOUT = {"action_decoder", "past_actions", "hides_actions"}
# The layout, its fields, the optional module and the model that has it.
STATED = {"tokens/timestep_layout.py", "model/config.py", "model/gato.py", "model/action_decoder.py"}
MODULES = ("gato_agent", "envs", "rollouts")


def sources() -> Iterator[tuple[str, ast.Module]]:
    for top in MODULES:
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path.relative_to(ROOT / top).as_posix(), ast.parse(path.read_text())


def conditions(tree: ast.Module) -> Iterator[ast.expr]:
    """Tests of branches: of if, while, comprehensions, and, or, not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node.test
        elif isinstance(node, ast.comprehension):
            yield from node.ifs
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.operand


def branches(tree: ast.Module, names: set[str]) -> bool:
    """True if a branch depends on one of the names."""
    words = (node for test in conditions(tree) for node in ast.walk(test))
    return any(getattr(node, "attr", getattr(node, "id", "")) in names for node in words)


def test_branches_are_found() -> None:
    for line in ("if config.action_decoder: pass", "x = 1 if not layout.hides_actions else 2", "x = past_actions or 3"):
        assert branches(ast.parse(line), LAYOUT), line
    assert not branches(ast.parse("x = make(config.action_decoder)"), LAYOUT)


def test_three_modules_branch_on_the_layout_of_a_timestep() -> None:
    """The loss and the decoder, which each have two ways, and the prompt of actions; all others ask the layout."""
    found = {path for path, tree in sources() if branches(tree, LAYOUT)} - STATED
    assert found == {"training/loss.py", "inference/decoders/torch_decoder.py", "dataset/load.py"}


def test_the_attention_rule_is_stated_once() -> None:
    """Backends read intervals of places: the window, padding and lasting of keys are known to visibility.py alone.

    The cache has a ring of slots in place of sequences, and its own test against whole sequences.
    """
    backends = {"attention", "flex_attention", "cpu_attention"}
    rule = {"PAD", "ALWAYS", "prefix_len"}
    known, built = set(), set()
    for path, tree in sources():
        folder, _, name = path.removesuffix(".py").rpartition("/")
        words = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(tree)}
        if folder == "model" and words & rule:
            known.add(name)
        if "Visibility" in words:
            built.add(name)
    assert "visibility" in known and not known & backends
    assert built == {"gato", *backends}
