"""Bar charts of the HTML page, coloured by its style sheet; a bar names its task when it is touched."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from gato_agent.evaluation.task_score import TaskScore

TOP = 1.25  # scores are clamped to this


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
