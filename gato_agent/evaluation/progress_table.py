"""Progress of an evaluation: a live table of finished tasks, or plain lines without a terminal."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from gato_agent.envs.io.console import fitted, plural
from gato_agent.envs.io.progress import Lines, remaining
from gato_agent.evaluation.aggregate import Summary
from gato_agent.evaluation.metrics import decimals
from gato_agent.evaluation.task_score import TaskScore

CAPTION = (
    "score: (mean - random) / (expert - random); of success where random and expert are in %\n"
    "ended: episodes that ended before their time limit"
)
OPTIONAL = (
    "steps/s",
    "random",
    "expert",
    "95% interval",
    "ended",
    "success",
)  # left out of narrow consoles, the first first
FRAME = 9  # lines of the live display besides the tasks


class ProgressTable:
    """Live table of finished tasks, as a context.

    Args:
        console: output.
        names: tasks and references to be played, by job number.
        title: name of the actor.
        done: scores of tasks that a resumed evaluation has already.
        episodes: number for each task.
        references: number of names that are references, which are not counted as tasks.
    """

    def __init__(
        self, console: Console, names: Sequence[str], title: str, done: Sequence[TaskScore], episodes: int,
        references: int = 0,
    ) -> None:  # fmt: skip
        self._console, self._names, self._title, self._episodes = console, names, title, episodes
        self._scores, self._tasks = list(done), len(done) + len(names) - references
        self._before, self._without_score, self._began = len(done), 0, time.monotonic()
        self._lines = Lines(console)
        self.playing: dict[int, int] = {}  # job -> completed episodes
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=4, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> Self:
        remaining_tasks = self._tasks - self._before
        if self._before and (remaining_tasks or not self._names):
            self.print_line(f"{self._before} of {self._tasks} tasks are evaluated already")
        if self._console.is_terminal:
            self._live.start()
        elif self._names:
            tasks = self._names[0] if len(self._names) == 1 else plural(remaining_tasks, "task")
            tasks = f"{tasks} with {self._title}" if remaining_tasks else ", ".join(self._names)
            self._lines.start(f"{tasks}: {plural(self._episodes, 'episode')} a task")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def watch(self, job: int, episodes: int) -> None:
        """Set the number of completed episodes of a job; off a terminal, print it from time to time."""
        self.playing[job] = episodes
        if 0 < episodes < self._episodes:  # the last has its score's line
            self._lines.add(f"{self._names[job]}: {episodes} of {self._episodes} episodes")

    def add(self, job: int, score: TaskScore) -> None:
        """Show the score of a finished job."""
        self.playing.pop(job, None)
        self._scores.append(score)
        if not self._console.is_terminal:
            mean, interval = returns(score)
            success = "" if score.success is None else f", success {percent(score.success)}"
            ended = "" if score.ended is None else f", {percent(score.ended)} ended before the time limit"
            self._lines.add(
                f"{score.task}: mean {mean} ({interval}){success}, score "
                f"{number(score.normalized, 3)}{ended}, {score.steps_per_second:,.0f} steps/s; {self._progress()}",
                last=True,
            )

    def add_line(self, job: int, line: str) -> None:
        """Print a line in place of a score of a finished job: its failure, or a reference of other scores."""
        self.playing.pop(job, None)
        self._without_score += 1
        self.print_line(line)

    def print_line(self, line: str) -> None:
        """Print a permanent line above the table."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _progress(self) -> str:
        played = len(self._scores) - self._before
        left = len(self._names) - played - self._without_score
        text = f"{len(self._scores)} of {self._tasks} tasks"
        if not left or not played:
            return text
        return f"{text}, about {remaining(self._began, played, left)} left"

    def _render(self) -> RenderableType:
        playing = [f"{self._names[job]} ({done} of {self._episodes})" for job, done in sorted(self.playing.items())]
        room = max(3, self._console.height - FRAME - len(playing))
        shown = table(self._scores[-room:], self._title, self._console)
        shown.caption = None
        return Group(shown, *(Text(f"  playing {line}") for line in playing), Text(f"  {self._progress()}"))


def table(scores: Sequence[TaskScore], title: str, console: Console) -> Table:
    """Table of scores, with fewer columns on a narrow console."""
    counts = {each.episodes for each in scores}
    heading = f"{title}, {counts.pop()} episodes a task" if len(counts) == 1 else title
    names = ("mean", "95% interval", "success", "random", "expert", "score", "ended", "steps/s")
    rows = []
    for each in scores:
        known = [value for value in (each.random, each.expert) if value is not None]
        places = decimals(*known) if known else 1
        references = [
            percent(value) if each.by_success else number(value, places) for value in (each.random, each.expert)
        ]
        rows.append((
            each.task, *returns(each), percent(each.success),
            *references, number(each.normalized, 3), percent(each.ended), f"{each.steps_per_second:,.0f}",
        ))  # fmt: skip
    columns = [Column("task"), *(Column(name, justify="right") for name in names)]
    return fitted(console, columns, rows, OPTIONAL, title=heading, caption=CAPTION)


def families(summaries: dict[str, Summary], console: Console) -> Table:
    """Table of aggregate scores by family, with fewer columns on a narrow console."""
    names = ("tasks", "IQM", "95% interval", "of tasks", "mean", "above half", "success")
    rows = []
    for name, each in summaries.items():
        interval = "-" if each.iqm_ci95 is None else "{:.3f} to {:.3f}".format(*each.iqm_ci95)
        rows.append((
            name, f"{each.tasks} of {each.wanted}", number(each.iqm, 3), interval, number(each.iqm_of_tasks, 3),
            number(each.mean, 3), f"{each.above_half} of {each.defined}", percent(each.success),
        ))  # fmt: skip
    columns = [Column("family"), *(Column(name, justify="right") for name in names)]
    optional = ("success", "of tasks", "95% interval", "mean", "above half")
    caption = "IQM: interquartile mean of the score, over all episodes and over the means of tasks"
    return fitted(console, columns, rows, optional, title="families", caption=caption)


def returns(score: TaskScore) -> tuple[str, str]:
    """Mean return and its 95% interval, with decimals enough to tell them apart."""
    low, high = score.ci95
    places = decimals(score.mean, low, high)
    return f"{score.mean:,.{places}f}", f"{low:,.{places}f} to {high:,.{places}f}"


def shown(value: float) -> str:
    """Return as text, with as many decimals as its size needs."""
    return f"{value:,.{decimals(value)}f}"


def number(value: float | None, digits: int = 1) -> str:
    """Number with a fixed number of digits, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Fraction as a percentage, or a dash for None."""
    return "-" if value is None else f"{value:.0%}"
