"""Results as Markdown tables, for a README or a model card."""

from collections.abc import Iterable, Sequence

from gato_agent.evaluation.aggregate import ALL, GROUPS, by_group
from gato_agent.evaluation.progress_table import number, percent, returns
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.task_score import TaskScore

BOUNDS = (0.5, 0.8, 0.9)  # scores above which tasks are counted


def markdown(results: Results) -> str:
    """Two Markdown tables: aggregates by family, and scores by task, as on the HTML page."""
    return f"{_families(results)}\n{_tasks(results)}"


def _families(results: Results) -> str:
    heads = ["family", "tasks", "IQM", "IQM of tasks", "mean", *(f"above {bound}" for bound in BOUNDS), "success"]
    rows = []
    for name, each in by_group(results).items():
        scores = [task.normalized for task in results.scores() if name in (ALL, _group(task))]
        above = [sum(score is not None and score > bound for score in scores) for bound in BOUNDS]
        means = [number(value, 3) for value in (each.iqm, each.iqm_of_tasks, each.mean)]
        tasks = f"{each.tasks}" if each.tasks == each.wanted else f"{each.tasks} of {each.wanted}"
        rows.append([name, tasks, *means, *map(str, above), percent(each.success)])
    return _table(heads, rows)


def _tasks(results: Results) -> str:
    heads = ["task", "mean return", "95% interval", "random", "expert", "success", "ended", "score"]
    order = {name: place for place, name in enumerate(GROUPS)}
    rows = [
        [
            each.task, *returns(each), number(each.random, 2),
            number(each.expert, 2), percent(each.success), percent(each.ended), number(each.normalized, 3),
        ]
        for each in sorted(results.scores(), key=lambda task: (order[_group(task)], task.task))
    ]  # fmt: skip
    return _table(heads, rows)


def _group(task: TaskScore) -> str:
    return next(name for name, suites in GROUPS.items() if task.family in suites)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table with a left-aligned first column and right-aligned numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)
