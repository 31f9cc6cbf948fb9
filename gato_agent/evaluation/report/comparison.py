"""Comparison of evaluations with each other and with published generalists, as tables."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from rich import box
from rich.table import Column, Table

from gato_agent.evaluation.aggregate import by_group, compare, shared, shared_note
from gato_agent.evaluation.metrics import Interval
from gato_agent.evaluation.progress_table import number
from gato_agent.evaluation.results import Results


def published() -> dict[str, Any]:
    """Published results of other generalists: description, and by group the IQM and its environments."""
    data: dict[str, Any] = json.loads(
        (files("gato_agent.evaluation.report") / "template" / "published.json").read_text(encoding="utf-8")
    )
    return data


def comparison(results: Sequence[Results]) -> Table:
    """Table of interquartile means by family, of each evaluation and of published generalists."""
    shown = Table(Column("family", no_wrap=True), title="IQM of expert-normalised score", box=box.SIMPLE, padding=0)
    summaries = [by_group(each) for each in shared(results)]
    others = {name: each["groups"] for name, each in published().items()}
    rows = {name: None for groups in summaries for name in groups}
    numeric = [name for name, groups in others.items() if any("iqm" in groups.get(row, {}) for row in rows)]
    for name in [*(each.actor for each in results), *numeric]:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [_cell(groups[row].iqm, groups[row].iqm_ci95) if row in groups else "-" for groups in summaries]
        known = [others[name].get(row, {}) for name in numeric]
        shown.add_row(row, *cells, *(number(each.get("iqm"), 3) for each in known))
    notes = [
        f"{name}, {row}: {each.get('said', 'IQM')} ({each['environments']})"
        for name, groups in others.items() for row, each in groups.items() if row in rows
    ]  # fmt: skip
    captions = [shared_note(results), f"published: {'; '.join(notes)}" if notes else ""]
    shown.caption = "\n".join(filter(None, captions)) or None
    return shown


def _cell(value: float | None, bounds: Interval | None) -> str:
    return number(value, 3) if not bounds else "{} ({:.3f} to {:.3f})".format(number(value, 3), *bounds)


def improvements(results: Sequence[Results]) -> Table:
    """Table of the probability of improvement of the first evaluation over each of the others."""
    first = results[0]
    shown = Table(Column("family", no_wrap=True), box=box.SIMPLE, padding=0)
    shown.title = f"probability that an episode of {first.actor} beats one of ..."
    comparisons = [compare(first, other) for other in results[1:]]
    for other in results[1:]:
        shown.add_column(other.actor, justify="right")
    for name in {name: None for groups in comparisons for name in groups}:
        cells = [
            _cell(groups[name].probability, groups[name].ci95) if name in groups else "-" for groups in comparisons
        ]
        shown.add_row(name, *cells)
    return shown
