"""SVG charts of the HTML page, coloured by its style sheet."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from gato_agent.evaluation.metrics import Sample, above, interval
from gato_agent.evaluation.task_score import TaskScore

TOP = 1.25  # scores are clamped to this
TAUS = np.linspace(0.0, 1.2, 61)
WIDTH, HEIGHT, LEFT, BOTTOM, ABOVE, RIGHT = 640, 320, 64, 54, 18, 18  # pixels of the profile and its margins


def bars(scores: Sequence[TaskScore]) -> Markup:
    """Bar chart of the tasks of a family by descending score; empty without a score."""
    known = sorted((each for each in scores if each.normalized is not None), key=lambda each: -(each.normalized or 0.0))
    if not known:
        return Markup()
    columns = [_bar(place, each) for place, each in enumerate(known)]
    lines = [f'<line class="{name}" x1="0" x2="{len(known)}" y1="{y(at)}" y2="{y(at)}"/>'
             for name, at in (("one", 1.0), ("half", 0.5), ("zero", 0.0))]  # fmt: skip
    return Markup(
        f'<svg class="bars" viewBox="0 0 {len(known)} 100" preserveAspectRatio="none" role="img" '
        f'style="--n:{len(known)}" aria-label="scores of {len(known)} tasks">{"".join(lines)}{"".join(columns)}</svg>'
    )


def y(value: float) -> float:
    """Vertical position of a score in a bar chart, in percent from the top."""
    return round(100 * (1 - (min(max(value, -0.1), TOP) + 0.1) / (TOP + 0.1)), 2)


def _bar(place: int, score: TaskScore) -> str:
    value = score.normalized or 0.0
    top, bottom = sorted((y(value), y(0.0)))
    low, high = score.normalized_ci95 or (value, value)
    kind = "good" if value > 0.9 else "fair" if value > 0.5 else "poor"
    return (
        f'<g class="bar {kind}" data-task="{escape(score.task)}" data-score="{value:.3f}">'
        f"<title>{escape(score.task)}: {value:.3f}</title>"
        f'<rect class="hit" x="{place}" y="0" width="1" height="100"/>'
        f'<rect x="{place + 0.12}" y="{top}" width="0.76" height="{max(0.6, bottom - top):.2f}"/>'
        f'<line class="whisker" x1="{place + 0.5}" x2="{place + 0.5}" y1="{y(low)}" y2="{y(high)}"/></g>'
    )


def profiles(samples: Sequence[tuple[str, list[Sample]]]) -> Markup:
    """Chart of performance profiles: by actor, the share of tasks with a score above tau and its 95% band."""
    lines = [_profile(number, sample) for number, (_, sample) in enumerate(samples) if sample]
    ticks = [_tick(x=tau) for tau in (0, 0.25, 0.5, 0.75, 1.0)] + [_tick(y=share) for share in (0, 0.25, 0.5, 0.75, 1)]
    return Markup(
        f'<svg class="profile" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="performance profile">'
        f"{''.join(ticks)}{''.join(lines)}"
        f'<text class="axis" x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">score τ</text></svg>'
    )


def shares(samples: list[Sample]) -> Sample:
    """Performance profile at TAUS: shares of tasks [..., taus]."""
    return above(samples, TAUS.tolist())


def _profile(number: int, samples: list[Sample]) -> str:
    profile, (low, high) = shares(samples), interval(shares, samples)
    band = [*zip(TAUS, low, strict=True), *reversed([*zip(TAUS, high, strict=True)])]
    line = " ".join(_point(tau, share) for tau, share in zip(TAUS, profile, strict=True))
    edge = " ".join(_point(tau, share) for tau, share in band)
    return f'<g class="player p{number % 6}"><polygon points="{edge}"/><polyline points="{line}"/></g>'


def _point(tau: float, share: float) -> str:
    x = LEFT + (WIDTH - LEFT - RIGHT) * tau / TAUS[-1]
    return f"{x:.1f},{ABOVE + (HEIGHT - BOTTOM - ABOVE) * (1 - share):.1f}"


def _tick(x: float | None = None, y: float | None = None) -> str:
    begin, end = (_point(x, 0), _point(x, 1)) if x is not None else (_point(0, y or 0.0), _point(TAUS[-1], y or 0.0))
    (x1, y1), (x2, y2) = begin.split(","), end.split(",")
    if x is not None:
        label = f'<text x="{x1}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{x:g}</text>'
    else:
        label = f'<text x="{LEFT - 6}" y="{float(y1) + 4}" text-anchor="end">{y:.0%}</text>'
    return f'<line class="grid" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>{label}'
