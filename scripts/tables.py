"""Tables of the documents, rendered from the JSON files of `benchmarks/results/`.

python scripts/tables.py            # write the tables of all documents
python scripts/tables.py --update   # first compute the tables of tasks, experts and model sizes
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from gato_agent.cli import guard
from gato_agent.envs.errors import UsageError
from gato_agent.envs.tasks.task import Score, Task, catalogue, families
from gato_agent.model.config import SIZES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"<!-- table: ([\w-]+)((?:; [^;\n]+)*) -->\n.*?<!-- end -->\n", re.DOTALL)
INDEX = "index"  # the table of all tables
WORDS = 2  # the smallest number of letters that makes a cell a word and its column left-aligned


@dataclass(frozen=True)
class Table:
    """Rows of measured or computed cells.

    Attributes:
        title: the claim in a few words.
        command: what prints the figures, in the spelling of this version.
        commit: the commit whose code and weights were measured; None where the code itself gives the rows.
        machine: the machine in words; None likewise.
        columns: heads.
        rows: cells, formatted as they are shown.
    """

    title: str
    command: str
    commit: str | None
    machine: str | None
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def select(self, columns: Sequence[str]) -> "Table":
        """The table with some of its columns, in that order; UsageError where there is no such column."""
        if missing := [name for name in columns if name not in self.columns]:
            raise UsageError(f"{self.title}: no column {missing[0]!r}; there are {', '.join(self.columns)}")
        places = [self.columns.index(name) for name in columns]
        rows = tuple(tuple(row[place] for place in places) for row in self.rows)
        return Table(self.title, self.command, self.commit, self.machine, tuple(columns), rows)

    def markdown(self) -> str:
        """The rows in Markdown; columns of figures are right-aligned."""
        cells = zip(*self.rows, strict=True)
        rule = ["---" if any(_is_words(cell) for cell in column) else "---:" for column in cells]
        lines = [self.columns, rule, *self.rows]
        return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)

    def source(self) -> str:
        """A line that says how the rows came about."""
        if self.commit is None:
            return "Computed from the code by `python scripts/tables.py --update`.\n"
        return f"`{self.command}`, commit {self.commit}, {self.machine}.\n"


def load(name: str) -> Table:
    """The table `benchmarks/results/NAME.json`; UsageError if it is missing or damaged."""
    path = RESULTS / f"{name}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(tuple(map(str, row)) for row in data.pop("rows"))
        table = Table(columns=tuple(data.pop("columns")), rows=rows, **data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path.relative_to(ROOT)}: {error}") from error
    if any(len(row) != len(table.columns) for row in rows):
        raise UsageError(f"{path.relative_to(ROOT)}: each row needs {len(table.columns)} cells")
    return table


def save(name: str, table: Table) -> None:
    """Write a table to `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    heads = ((key, value) for key, value in asdict(table).items() if key != "rows")
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n" for key, value in heads]
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in table.rows)
    text = "{\n" + "".join(lines) + f' "rows": [\n{rows}\n ]\n}}\n'
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def names() -> list[str]:
    """Names of all tables."""
    return sorted(path.stem for path in RESULTS.glob("*.json"))


def shown_in() -> Iterator[tuple[str, Path]]:
    """Name and document of each marked table."""
    for document in DOCUMENTS:
        for mark in MARKED.finditer(document.read_text(encoding="utf-8")):
            yield mark.group(1), document


def written(document: Path) -> str:
    """The text of a document with its tables as the JSON files have them."""

    def table(mark: re.Match[str]) -> str:
        name, options = mark.group(1), [option for option in mark.group(2).split("; ") if option]
        shown = index(document) if name == INDEX else load(name)
        body = (shown.select(options) if options else shown).markdown()
        source = "" if name == INDEX or options else f"\n{shown.source()}"
        head = "; ".join([f"<!-- table: {name}", *options])
        return f"{head} -->\n\n{body}{source}\n<!-- end -->\n"

    return MARKED.sub(table, document.read_text(encoding="utf-8"))


def index(document: Path) -> Table:
    """The measured tables: claim, command, commit, and a link to the document that shows each."""
    places = {name: path for name, path in shown_in() if path.parent.name == "docs"}
    rows = []
    for name, table in ((name, load(name)) for name in names()):
        if table.commit is not None:
            place = places.get(name, RESULTS / f"{name}.json")
            link = Path(os.path.relpath(place, document.parent)).as_posix()
            rows.append((f"[{table.title}]({link})", f"`{table.command}`", table.commit, table.machine or ""))
    return Table("every figure", "", None, None, ("claim", "command", "commit", "machine"), tuple(rows))


def tasks() -> Table:
    """The catalogue: observations, actions and reference scores of each task."""
    heads = ("task", "suite", "observations", "actions", "horizon", "random", "expert", "expert's success")
    rows = [
        (
            task.id, task.suite, task.observes or "", task.acts or "", _count(task.horizon),
            _mean(task.random), _mean(task.expert), _success(task.expert),
        )
        for task in _catalogue()
    ]  # fmt: skip
    return _computed("the tasks of the catalogue", heads, rows)


def suites() -> Table:
    """Suites of the catalogue, with the extra that installs each and the origin of its experts."""
    rows = []
    for suite in families():
        members = [task for task in _catalogue() if task.suite == suite]
        kinds = sorted({_origin(task) for task in members})
        rows.append((f"`{suite}`", str(len(members)), members[0].extra or "", "; ".join(kinds)))
    return _computed("the suites of the catalogue", ("suite", "tasks", "extra", "experts"), rows)


def trained_experts() -> Table:
    """Experts that `collect --expert train` made, with what their training took."""
    rows = []
    for task in _catalogue():
        kind, _, how = (task.expert_source or "").partition(" (Stable-Baselines3): ")
        if how and task.expert and task.random:
            algorithm = kind.partition(",")[0].upper()
            spread = f"{task.expert.mean:,.1f} ± {task.expert.std:,.1f}"
            rows.append((task.id, algorithm, spread, _mean(task.random), how.removesuffix(", MIT")))
    return _computed("experts trained for this project", ("task", "algorithm", "expert", "random", "training"), rows)


def sizes() -> Table:
    """Shape and parameters of the named sizes."""
    from gato_agent.model.gato import Gato

    rows = []
    for name, size in SIZES.items():
        config, published = size.config, size.published
        count = sum(parameter.numel() for parameter in Gato.skeleton(config).parameters())
        shape = (config.layers, config.heads, config.width, config.feed_forward, config.context, count)
        rows.append((f"`{name}`", *(f"{value:,}" for value in shape), f"{published:,.0f}" if published else ""))
    heads = ("size", "layers", "heads", "width", "feed-forward", "context", "parameters", "published")
    return _computed("the model sizes", heads, rows)


COMPUTED: dict[str, Callable[[], Table]] = {
    "tasks": tasks,
    "suites": suites,
    "trained-experts": trained_experts,
    "sizes": sizes,
}


@dataclass(frozen=True)
class Config:
    """Write the tables of the documents."""

    update: bool = False
    """Compute the tables that need no measurement first."""


def main(config: Config) -> None:
    """Write every document whose tables differ from the JSON files."""
    if config.update:
        for name, compute in COMPUTED.items():
            save(name, compute())
    for document in DOCUMENTS:
        text = written(document)
        if text != document.read_text(encoding="utf-8"):
            document.write_text(text, encoding="utf-8")


def _computed(title: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    return Table(title, "python scripts/tables.py --update", None, None, heads, tuple(rows))


def _catalogue() -> list[Task]:
    order = {suite: place for place, suite in enumerate(families())}
    return sorted(catalogue().values(), key=lambda task: (order[task.suite], task.id))


def _origin(task: Task) -> str:
    source = task.expert_source or ""
    if "expert train" in source:
        return "Stable-Baselines3, trained by `collect --expert train`"
    if "rl-trained-agents" in source:
        return "Stable-Baselines3, of rl-trained-agents"
    return source.partition(", ")[0].upper() + " of baby-a3c" if "baby-a3c" in source else source


def _mean(score: Score | None) -> str:
    return f"{score.mean:,.2f}" if score else ""


def _success(score: Score | None) -> str:
    return f"{score.success:.0%}" if score and score.success is not None else ""


def _count(value: int | None) -> str:
    return f"{value:,}" if value else ""


def _is_words(cell: str) -> bool:
    return len(re.findall(r"[A-Za-z]", cell.replace("±", "").replace(" to ", ""))) >= WORDS


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "tables")
