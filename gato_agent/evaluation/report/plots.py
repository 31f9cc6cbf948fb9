"""Plots of a report for papers, as PNG and SVG files."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from gato_agent.evaluation.aggregate import ALL, GROUPS, by_group, shared
from gato_agent.evaluation.metrics import Sample, interval
from gato_agent.evaluation.report.charts import TAUS, shares
from gato_agent.evaluation.results import Results

KINDS = ("png", "svg")
RC_PARAMS: Any = {
    "svg.hashsalt": "gato-agent",
    "svg.fonttype": "none",
    "font.size": 9,
}  # no random ids: equal data give equal files


def plots(results: Sequence[Results], samples: Sequence[tuple[str, list[Sample]]]) -> dict[str, bytes]:
    """Plot files by name: interquartile means of families, scores of tasks, and the performance profile."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot, which needs a display and global state

    files: dict[str, bytes] = {}
    with mpl.rc_context(RC_PARAMS):
        for name, size, draw in (("families", (6, 3), _families), ("tasks", (7, 6), _tasks), ("profile", (5, 3), None)):
            figure = Figure(figsize=size, layout="constrained")
            if draw is None:
                _profile(figure.add_subplot(), samples)
            else:
                draw(figure, results)
            for kind in KINDS:
                data = io.BytesIO()
                figure.savefig(data, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
                files[f"{name}.{kind}"] = data.getvalue()
    return files


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
                place + number * height, summary.iqm, height, color=f"C{number}",
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
        axes.bar(range(len(tasks)), heights, color="C0")
        axes.set_ylim(min(0.0, *heights), max(1.1, *heights))
        axes.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
        axes.set_xticks([])
        axes.set_title(f"{name}: {len(tasks)} tasks", fontsize=9, loc="left")
    figure.supylabel("expert-normalised score")


def _profile(axes: Any, samples: Sequence[tuple[str, list[Sample]]]) -> None:
    for name, sample in samples:
        if sample:
            low, high = interval(shares, sample)
            axes.plot(TAUS, shares(sample), label=name)
            axes.fill_between(TAUS, low, high, alpha=0.2)
    axes.set_xlabel("score τ")
    axes.set_ylabel("share of tasks above τ")
    axes.set_ylim(0, 1.02)
    if len(samples) > 1:
        axes.legend(frameon=False)
