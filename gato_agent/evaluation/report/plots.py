"""Plots of a report: PNG and SVG files for papers, and the performance profile for the page."""

import io
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from gato_agent.evaluation.aggregate import ALL, GROUPS, by_group, shared
from gato_agent.evaluation.metrics import Sample, above, interval
from gato_agent.evaluation.results import Results

KINDS = ("png", "svg")
TAUS = np.linspace(0.0, 1.2, 61)
COLORS = ("#3756c5", "#d9722c", "#1f8a70", "#9a4fb5", "#b5a21c", "#4a9fc0")  # --p0 to --p5 of the page's style sheet
RC_PARAMS: Any = {
    "svg.hashsalt": "gato-agent",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,
}  # no random ids, so that equal data give equal files; names are not formulas


def plots(results: Sequence[Results], samples: Sequence[tuple[str, list[Sample]]]) -> dict[str, bytes]:
    """Plot files by name: interquartile means of families, scores of tasks, and the performance profile."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot, which needs a display and global state

    files: dict[str, bytes] = {}
    with mpl.rc_context(RC_PARAMS):
        for name, size, draw in (
            ("families", (6, 3), partial(_families, results=results)),
            ("tasks", (7, 6), partial(_tasks, results=results)),
            ("profile", (5, 3), partial(_profile, samples=samples, legend=len(samples) > 1)),
        ):
            figure = Figure(figsize=size, layout="constrained")
            draw(figure)
            files |= {f"{name}.{kind}": _drawn(figure, kind) for kind in KINDS}
    return files


def inline_profile(samples: Sequence[tuple[str, list[Sample]]]) -> Markup:
    """Performance profile as an SVG element in the colours of the page, without a legend."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        _profile(figure, samples, legend=False)
        drawn = _drawn(figure, "svg", transparent=True).decode()
    element = re.sub(
        r"<metadata>.*?</metadata>| xmlns(:xlink)?=\"[^\"]*\"", "", drawn[drawn.index("<svg") :], flags=re.DOTALL
    )
    element = element.replace("#000000", "currentColor")
    for number, color in enumerate(COLORS):
        element = element.replace(color, f"var(--p{number})")
    return Markup(element)


def _drawn(figure: Any, kind: str, **options: Any) -> bytes:
    """File of a figure."""
    data = io.BytesIO()
    figure.savefig(data, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None, **options)
    return data.getvalue()


def _families(figure: Any, results: Sequence[Results]) -> None:
    axes = figure.add_subplot()
    summaries = [by_group(each) for each in shared(results)]
    names = [name for name in (*GROUPS, ALL) if any(name in each and each[name].iqm is not None for each in summaries)]
    height = 0.8 / len(results)
    for number, (each, groups) in enumerate(zip(results, summaries, strict=True)):
        for place, name in enumerate(names):
            summary = groups.get(name)
            if summary is None or summary.iqm is None or summary.iqm_ci95 is None:
                continue
            low, high = summary.iqm_ci95
            axes.barh(
                place + number * height, summary.iqm, height, color=COLORS[number % len(COLORS)],
                xerr=[[max(0.0, summary.iqm - low)], [max(0.0, high - summary.iqm)]],
                label=each.actor if place == 0 else None,
            )  # fmt: skip
    axes.set_yticks(np.arange(len(names)) + height * (len(results) - 1) / 2, names)
    axes.invert_yaxis()
    axes.axvline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_xlabel("IQM of expert-normalised score, with 95% interval")
    if len(results) > 1:
        axes.legend(frameon=False)


def _tasks(figure: Any, results: Sequence[Results]) -> None:
    groups = {
        name: sorted((t for t in results[0].scores() if t.family in suites and t.normalized is not None),
                     key=lambda t: -(t.normalized or 0.0))
        for name, suites in GROUPS.items()
    }  # fmt: skip
    groups = {name: tasks for name, tasks in groups.items() if tasks}
    rows = figure.subplots(max(1, len(groups)), squeeze=False)[:, 0]
    for axes, (name, tasks) in zip(rows, groups.items(), strict=False):
        heights = [each.normalized or 0.0 for each in tasks]
        axes.bar(range(len(tasks)), heights, color=COLORS[0])
        axes.set_ylim(min(0.0, *heights), max(1.1, *heights))
        axes.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
        axes.set_xticks([])
        axes.set_title(f"{name}: {len(tasks)} tasks", fontsize=9, loc="left")
    figure.supylabel("expert-normalised score")


def _profile(figure: Any, samples: Sequence[tuple[str, list[Sample]]], legend: bool) -> None:
    axes = figure.add_subplot()
    for number, (name, sample) in enumerate(samples):
        if sample:
            (low, high), color = interval(_shares, sample), COLORS[number % len(COLORS)]
            axes.plot(TAUS, _shares(sample), label=name, color=color)
            axes.fill_between(TAUS, low, high, alpha=0.2, color=color)
    axes.set_xlabel("score τ")
    axes.set_ylabel("share of tasks above τ")
    axes.set_xlim(0, TAUS[-1])
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(frameon=False)


def _shares(samples: list[Sample]) -> Sample:
    """Performance profile at TAUS: shares of tasks [..., taus]."""
    return above(samples, TAUS.tolist())
