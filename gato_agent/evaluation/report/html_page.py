"""HTML page of a report: one file with style, script and charts inside, complete without its script.

`template/page.html` holds the markup and is rendered by Jinja2 with autoescape, so that names and error messages from
results files are text; this module prepares its data.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gato_agent.evaluation.aggregate import ALL, GROUPS, Summary, by_group, compare, of_states, shared, shared_note
from gato_agent.evaluation.metrics import Sample
from gato_agent.evaluation.progress_table import number, percent, returns, shown
from gato_agent.evaluation.report.charts import bars
from gato_agent.evaluation.report.plots import inline_profile
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.task_score import TaskScore, family_of

PACKAGE = "gato_agent.evaluation.report"
FULL_WIDTH = 24  # tasks above which a family's chart takes the whole width
SCALE = 1.2  # score at the right end of a meter
Videos = dict[str, dict[str, Any]]  # task -> file, poster, return, steps and seconds


class Tile(NamedTuple):
    """A headline number, a note beside it and its label."""

    value: str
    note: str
    label: str


class Row(NamedTuple):
    """Table row of an evaluated task; `other_scores` has (True if it was played, score) in each other evaluation."""

    task: TaskScore
    group: str
    state: str
    other_scores: list[tuple[bool, float | None]]
    video: Mapping[str, Any] | None


class MissingRow(NamedTuple):
    """Table row of a task without a result."""

    task: str
    group: str
    family: str
    state: str
    reason: str


HEADS = (  # column heading, kind by which it sorts, and True if it is shown on a phone
    ("task", "text", True), ("family", "text", False), ("score", "number", True), ("its 95% interval", "number", False),
    ("ended", "number", True), ("return and its 95% interval", "number", False),
    ("success", "number", False), ("random", "number", False),
    ("expert", "number", False), ("steps/s", "number", False),
)  # fmt: skip


def page(
    results: Sequence[Results],
    samples: Sequence[tuple[str, list[Sample]]],
    videos: Videos,
    published: Mapping[str, Any],
) -> str:
    """Render the page of the first evaluation, with the others for comparison.

    Args:
        results: at least one.
        samples: actor and scores [episodes] by task, of each evaluation.
        videos: by task, of the first evaluation.
        published: results of other generalists, as in template/published.json.

    Returns:
        HTML text.
    """
    first, groups = results[0], [by_group(each) for each in shared(results)]
    return _templates().get_template("page.html").render(
        first=first, results=results, groups=groups, published=published, about=_about(first),
        tiles=list(_tiles(first, by_group(first))), note=shared_note(results),
        strips=list(_strips(first)), profile=inline_profile(samples),
        actors=[name for name, _ in samples], comparisons=[(other, compare(first, other)) for other in results[1:]],
        families=_group_names(first), rows=list(_rows(results, videos)), missing=list(_missing(first)),
        numeric=[name for name, each in published.items() if any("iqm" in g for g in each["groups"].values())],
        style=_asset("page.css"), script=_asset("page.js"),
    )  # fmt: skip


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader(PACKAGE, "template"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {"number": number, "percent": percent, "returns": returns, "shown": shown, "meter": _meter}
    templates.globals |= {"ALL": ALL, "HEADS": HEADS}
    return templates


def _asset(name: str) -> Markup:
    """Style or script of the package, which is inserted as it is."""
    return Markup((files(PACKAGE) / "template" / name).read_text(encoding="utf-8"))


def _meter(score: float) -> float:
    """Position of a score on a meter from 0 to SCALE, as a fraction."""
    return min(max(score, 0.0), SCALE) / SCALE


def _about(results: Results) -> str:
    settings = results.settings
    digest = f" · weights {results.sha256[:12]}" if results.sha256 else ""
    temperature = settings.get("temperature")
    if isinstance(temperature, dict):
        counts = Counter(temperature[task] for task in sorted(results.tasks) if task in temperature).items()
        temperature = ", ".join(f"{t:g} in {count} {'task' if count == 1 else 'tasks'}" for t, count in sorted(counts))
    decoding = f"temperature {temperature}" if temperature else "greedy"
    episodes = f"{settings.get('episodes')} episodes a task, seeds from {settings.get('seed', 0):,}"
    return f"{episodes} · {decoding}, {settings.get('precision')}{digest}"


def _tiles(results: Results, groups: Mapping[str, Summary]) -> Iterator[Tile]:
    total = groups[ALL]
    yield Tile(f"{total.tasks}", f"of {total.wanted}" if total.wanted > total.tasks else "", "tasks evaluated")
    if total.iqm is not None and total.iqm_ci95 is not None:
        yield Tile(f"{total.iqm:.2f}", "{:.2f} to {:.2f}".format(*total.iqm_ci95), "IQM of score, all tasks")
        share = total.above_half / total.defined
        yield Tile(f"{share:.0%}", f"{total.above_half} of {total.defined}", "above half of expert")
    states = of_states(groups)
    if states is not None and len(groups) > 2:
        yield Tile(f"{states:.2f}", "", "mean of families seen as states")
    if total.success is not None:
        yield Tile(f"{total.success:.0%}", "", "success, where a task has it")
    episodes, steps = (sum(getattr(task, name) for task in results.scores()) for name in ("episodes", "steps"))
    yield Tile(f"{episodes:,}", f"{steps:,} steps", "episodes played")


def _group_names(results: Results) -> list[str]:
    present = {family_of(task) for task in (*results.tasks, *results.failed, *results.not_evaluated)}
    return [name for name, suites in GROUPS.items() if present.intersection(suites)]


def _group_of(task: str) -> str:
    family = family_of(task)
    return next(name for name, suites in GROUPS.items() if family in suites)


def _strips(results: Results) -> Iterator[tuple[str, bool, Markup]]:
    """Name, True for the whole width, and bar chart of each family with a score."""
    for name in _group_names(results):
        tasks = [task for task in results.scores() if task.family in GROUPS[name]]
        if chart := bars(tasks):
            yield name, len(tasks) > FULL_WIDTH, chart


def _rows(results: Sequence[Results], videos: Videos) -> Iterator[Row]:
    order = list(GROUPS)
    for task in sorted(results[0].scores(), key=lambda each: (order.index(_group_of(each.task)), each.task)):
        score = task.normalized
        state = "undefined" if score is None else "above half" if score > 0.5 else "below half"
        others = [each.tasks.get(task.task) for each in results[1:]]
        other_scores = [(each is not None, each.normalized if each else None) for each in others]
        yield Row(task, _group_of(task.task), state, other_scores, videos.get(task.task))


def _missing(results: Results) -> Iterator[MissingRow]:
    for state, reasons in (("failed", results.failed), ("not evaluated", results.not_evaluated)):
        for task, reason in sorted(reasons.items()):
            yield MissingRow(task, _group_of(task), family_of(task), state, reason)
