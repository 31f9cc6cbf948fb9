"""Curve of an improvement: lines and table for the console, and a plot as PNG and SVG files."""

import io
from pathlib import Path

from rich.table import Column

from gato_agent.envs.files import write_files
from gato_agent.envs.io.console import fitted, plain_console, print_line
from gato_agent.evaluation.metrics import ci95, decimals
from gato_agent.evaluation.report.plots import KINDS, RC_PARAMS
from gato_agent.improving.progress import Progress, gain

HEADINGS = (
    "round",
    "episodes",
    "steps",
    "selected",
    "demonstrations",
    "bar",
    "score",
    "95% interval",
    "seconds",
    "best",
)
OPTIONAL = ("demonstrations", "steps", "seconds", "bar")  # left out of narrow consoles, the first first


def describe(progress: Progress, number: int) -> str:
    """Score of a round, and its gain over the best before it, in words."""
    result = progress.rounds[number]
    low, high = ci95(result.scores)
    digits = decimals(low, high)
    text = f"{_named(progress)} {result.score:.{digits}f}, 95% interval {low:.{digits}f} to {high:.{digits}f}"
    if number == 0:
        return text
    before = next(each for each in reversed(progress.rounds[:number]) if each.best)
    mean, low, high = gain(result.scores, before.scores)
    verdict = "the best so far" if result.best else f"round {before.number} stays the best"
    interval = f"95% interval {low:+.{digits}f} to {high:+.{digits}f}"
    return f"{text}; gain {mean:+.{digits}f} over round {before.number}, {interval}: {verdict}"


def show(folder: Path, env_id: str, progress: Progress) -> None:
    """Print the table of all rounds, the result on new seeds, and the cost."""
    console = plain_console()
    rows = []
    for each in progress.rounds:
        low, high = ci95(each.scores)
        digits = decimals(low, high)
        rows.append([
            str(each.number), f"{each.episodes:,}", f"{each.steps:,}", str(each.selected), str(each.demonstrations),
            "-" if each.bar is None else f"{each.bar:.{decimals(each.bar)}f}", f"{each.score:.{digits}f}",
            f"{low:.{digits}f} to {high:.{digits}f}", f"{sum(each.seconds.values()):,.0f}", "*" if each.best else "",
        ])  # fmt: skip
    columns = [Column(name) for name in HEADINGS]
    console.print(fitted(console, columns, rows, OPTIONAL, title=f"{env_id}: {_named(progress)} by round"))
    for line in (f"end: {progress.end}", result(folder, progress), cost(progress)):
        print_line(line)


def result(folder: Path, progress: Progress) -> str:
    """Best agent and its gain over the first one on new seeds, in words."""
    best = progress.best.number
    text = f"best: round {best}, {folder / 'best'}"
    if not progress.test or progress.test_gain is None:
        return text
    first, last = (sum(progress.test[name]) / len(progress.test[name]) for name in ("first", "best"))
    mean, low, high = progress.test_gain
    digits = decimals(first, last)
    shown = progress.demonstrations
    beside = "" if shown is None else f"; the demonstrations have {shown:.{decimals(shown)}f}"
    return (
        f"{text}; on new seeds {_named(progress)} {last:.{digits}f}, the first agent's {first:.{digits}f}, gain "
        f"{mean:+.{digits}f} (95% interval {low:+.{digits}f} to {high:+.{digits}f}){beside}"
    )


def cost(progress: Progress) -> str:
    """Episodes, steps and time of all rounds, in words."""
    seconds: dict[str, float] = {"comparing": progress.test_seconds}
    for each in progress.rounds:
        for stage, time in each.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + time
    parts = ", ".join(f"{stage} {time / 60:.1f}" for stage, time in sorted(seconds.items()))
    episodes, steps = (sum(getattr(each, name) for each in progress.rounds) for name in ("episodes", "steps"))
    return f"cost: {episodes:,} episodes of {steps:,} steps, {sum(seconds.values()) / 60:.1f} minutes ({parts})"


def write_curve(folder: Path, env_id: str, progress: Progress) -> None:
    """Write the plot of scores by round, with 95% intervals, as curve.png and curve.svg."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot, which needs a display and global state

    files: dict[Path, bytes] = {}
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot()
        numbers, scores = [each.number for each in progress.rounds], [each.score for each in progress.rounds]
        low, high = zip(*(ci95(each.scores) for each in progress.rounds), strict=True)
        axes.plot(numbers, scores, marker="o", markersize=3, label="agent")
        axes.fill_between(numbers, low, high, alpha=0.2)
        axes.plot(progress.best.number, progress.best.score, "*", markersize=10, color="C1", label="best")
        if progress.demonstrations is not None:
            axes.axhline(progress.demonstrations, color="0.5", linewidth=0.8, linestyle="--", label="demonstrations")
        axes.set_xticks(numbers)
        axes.set_xlabel("round")
        axes.set_ylabel(f"{_named(progress)}, with 95% interval")
        axes.set_title(env_id, fontsize=9, loc="left")
        axes.legend(frameon=False)
        for kind in KINDS:
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
            files[folder / f"curve.{kind}"] = data.getvalue()
    write_files(files)


def _named(progress: Progress) -> str:
    """Name of the score."""
    return "success rate" if progress.by_success else "mean return"
